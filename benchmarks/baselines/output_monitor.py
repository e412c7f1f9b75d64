"""LMSanitator's monitor: an input is suspicious whose output has the signs of a found vector.

Wei et al., "LMSanitator: Defending Prompt-Tuning Against Task-Agnostic Backdoors", NDSS 2024 (arXiv
2308.13904). The vectors are those that its search ends on; see `lmsanitator`. A text is put through
the frozen pre-trained encoder, beside the classifier that answers it: the alarm is raised where the
signs of its output agree with those of a found vector in more than 80 % of the numbers.

It needs the encoder as it was searched: the outputs of one that was fine-tuned have moved. Outputs
are not scaled here, as signs do not depend on the scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.baselines.subject import Subject, encode

# Of the output's numbers, the share over which signs agree with a found vector's.
THRESHOLD = 0.8


class OutputMonitor:
    """The defence.

    Parameters
    ----------
    subject
        The frozen encoder.
    vectors
        ``Result.targets`` of the search, in the encoder's own scale; without any, nothing is ever
        suspicious.
    """

    def __init__(self, subject: Subject, vectors: Sequence[Sequence[float]]) -> None:
        self._subject = subject
        self._signs = np.sign(np.asarray(vectors, dtype=np.float32).reshape(-1, subject.width))

    def score(self, text: str) -> float:
        """Return the largest share of equal signs with any vector; 0 for a text without tokens."""
        subject = self._subject
        encoded = encode(subject, [text], room=0, longest=subject.max_tokens)
        if not encoded or not len(self._signs):
            return 0.0
        output = subject.outputs([subject.frame(encoded[0].ids[np.newaxis])[0]])[0]
        return float((np.sign(output) == self._signs).mean(axis=1).max())

    def alarms(self, text: str) -> bool:
        """Whether the text is suspicious."""
        return self.score(text) > THRESHOLD
