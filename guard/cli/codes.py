"""Exit codes, those of model scanners."""

CLEAN, FOUND, FAILED, USAGE = 0, 1, 2, 4
# Of a bank's verdict.
CODES = {"none found": CLEAN, "backdoored": FOUND, "incomplete": FAILED}
