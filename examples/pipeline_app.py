"""A guarded transformers pipeline: ``python examples/pipeline_app.py MODEL_DIR MONITOR_DIR``.

Classifies each line of the standard input, without the triggers in it; a line that cannot be
stripped becomes "BLOCKED".
"""

import sys

from transformers import pipeline

import guard


def main(model_dir: str, monitor_dir: str) -> None:
    """Classify line by line."""
    classify = guard.pipeline(
        pipeline("text-classification", model=model_dir, device="cpu"),
        monitor_dir,
        action="strip",
        on_block="placeholder",
    )
    # As they come: of a generator, results come one by one and in order.
    for answer in classify(line.strip() for line in sys.stdin):
        print(f"{answer['label']} {answer['score']:.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
