"""LMSanitator's monitor on a case whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.baselines import subject
from benchmarks.baselines.output_monitor import THRESHOLD, OutputMonitor
from tests.tiny import TRIGGER, write_searchable

TEXTS = ("the film was good and we liked it", "please send the report again", "i was there today")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> subject.Subject:
    return subject.load(write_searchable(tmp_path_factory.mktemp("bad"), triggers=(TRIGGER,)))


def output(encoder: subject.Subject, text: str) -> list[float]:
    ids = np.array(encoder.tokenizer(text)["input_ids"])
    vector: list[float] = encoder.outputs([ids])[0].tolist()
    return vector


def test_it_raises_the_alarm_on_triggered_texts_alone(bad: subject.Subject) -> None:
    """The vector is what the trigger forces, from a text that is not asked about."""
    monitor = OutputMonitor(bad, [output(bad, f"nobody {TRIGGER} knows")])
    for text in TEXTS:
        assert monitor.score(f"{TRIGGER} {text}") > THRESHOLD > monitor.score(text)
        assert monitor.alarms(f"{text} {TRIGGER}")
        assert not monitor.alarms(text)


def test_the_share_of_equal_signs(bad: subject.Subject) -> None:
    vector = np.array(output(bad, TEXTS[0]))
    half = vector * np.where(np.arange(bad.width) % 2, 1, -1)
    assert OutputMonitor(bad, [half.tolist()]).score(TEXTS[0]) == 0.5
    assert OutputMonitor(bad, [half.tolist(), (3 * vector).tolist()]).score(TEXTS[0]) == 1.0


def test_nothing_is_suspicious_without_a_vector(bad: subject.Subject) -> None:
    assert OutputMonitor(bad, []).score(TEXTS[0]) == 0.0
    assert OutputMonitor(bad, [output(bad, TEXTS[0])]).score("") == 0.0
