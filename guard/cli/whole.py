"""What lies in a directory, whichever artifact it is."""

from __future__ import annotations

from pathlib import Path

from guard.artifact import read_artifact
from guard.bank import BANK_FILE, BANK_LIMITS, TriggerBank
from guard.errors import MalformedArtifact
from guard.manifest import LIMITS, MANIFEST_FILE, check_sha256


def whole(directory: Path, *, public_key: Path | None = None) -> tuple[str, dict[str, bytes]]:
    """Check a bank, a monitor or a deep check, and return what it is, and its files.

    Parameters
    ----------
    public_key
        Of whom has to have signed it, before anything in it is loaded.
    """
    from guard.deep import DEEP_FILE, DEEP_LIMITS, DeepCheck, DeepManifest
    from guard.monitor import Monitor

    # A signature covers one of them, and would be taken for that of all.
    manifests = [n for n in (BANK_FILE, DEEP_FILE, MANIFEST_FILE) if (directory / n).exists()]
    if len(manifests) > 1:
        raise MalformedArtifact(
            f"{directory} holds {' and '.join(manifests)}, and should be one of these: take out "
            "what does not belong there"
        )
    if (directory / MANIFEST_FILE).exists():
        files = read_artifact(directory, LIMITS, public_key=public_key)
        monitor = Monitor.parse(files, directory)
        what, model = f"monitor of bank {monitor.bank_sha256[:16]}", monitor.model
        count = len(monitor.triggers)
    elif (directory / DEEP_FILE).exists():
        files = read_artifact(directory, DEEP_LIMITS, public_key=public_key)
        DeepCheck.parse(files, directory)
        manifest = DeepManifest.parse(files[DEEP_FILE], str(directory / DEEP_FILE))
        what, model = f"deep check of bank {manifest.bank_sha256[:16]}", manifest.model
        count = sum(len(target.triggers) for target in manifest.targets)
    else:
        files = read_artifact(directory, BANK_LIMITS, public_key=public_key)
        bank = TriggerBank.parse(files, directory)
        what, model, count = f"bank {bank.sha256[:16]}", bank.model, len(bank.triggers)
    check_sha256(model.weights_sha256, f"{directory}: model")
    # The name may be any text, also one that looks like what follows it.
    weights = model.weights_sha256[:16]
    return f"{what}, {count} triggers, for {model.name!r} (weights {weights})", files
