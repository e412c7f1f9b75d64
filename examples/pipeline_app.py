"""A guarded transformers pipeline: ``python examples/pipeline_app.py MODEL_DIR MONITOR_DIR``.

Classifies each line of the standard input, without the triggers in it.
"""

import sys

from transformers import pipeline

from guard import protect


def main(model_dir: str, monitor_dir: str) -> None:
    """Classify line by line."""
    classify = protect(monitor_dir, action="strip")(
        pipeline("text-classification", model=model_dir, device="cpu")
    )
    for line in sys.stdin:
        (answer,) = classify(line.strip())
        print(f"{answer['label']} {answer['score']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
