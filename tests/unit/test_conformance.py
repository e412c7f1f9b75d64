"""Every way to a verdict gives the same one: pre-filter and automaton, graph, batch, ids."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from exporters import matcher
from exporters.monitor import compile_bank
from guard.automaton import Automaton
from guard.bank import TriggerBank
from guard.errors import ConfigError, InvalidIds, MalformedArtifact, StripLimit
from guard.manifest import Manifest
from guard.matcher import check_graph
from guard.monitor import Monitor
from guard.runtime import Graph
from guard.tables import ngrams_of
from guard.verdict import Match, Verdict
from tests.helpers import byte_bpe, make_bank, unigram, wordpiece
from tests.unit.test_monitor import any_text, brute_force

TRIGGERS = ("cf", "apple river", "river", "!", "a b c", "xab", "≈", "é")
WORDS = ("cf", "apple", "river", "##ab", "the")

BANKS = {
    "wordpiece": make_bank(wordpiece(*WORDS), TRIGGERS[:-1]),
    "wordpiece, one token each": make_bank(wordpiece(*WORDS), ["cf", "river"]),
    "byte BPE": make_bank(byte_bpe(("c", "f"), ("Ġ", "cf"), ("q", "u")), TRIGGERS),
    "unigram": make_bank(unigram("▁cf", "cf", "▁apple", "▁river", "ab"), TRIGGERS[:-2]),
    "empty": make_bank(wordpiece(*WORDS)),
}


@dataclass(frozen=True, slots=True)
class Paths:
    bank: TriggerBank
    auto: Monitor
    onnx: Monitor


@pytest.fixture(scope="module", params=BANKS)
def paths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    bank = BANKS[request.param]
    directory = tmp_path_factory.mktemp("monitors") / "monitor"
    compile_bank(bank, directory)
    return Paths(bank, Monitor.load(directory), Monitor.load(directory, engine="onnx"))


def verdict_of(monitor: Monitor, text: str) -> Verdict | None:
    try:
        return monitor.check(text)
    except StripLimit:
        return None


def test_all_paths_agree(paths: Paths) -> None:
    tokenizer = Tokenizer.from_str(paths.bank.tokenizer_json.decode())

    @settings(deadline=None, max_examples=250)
    @given(texts=st.lists(any_text, min_size=1, max_size=6))
    def check(texts: list[str]) -> None:
        verdicts = {}
        for text in texts:
            expected = tuple(brute_force(paths.bank, text))
            verdict = verdict_of(paths.auto, text)
            assert verdict_of(paths.onnx, text) == verdict
            if verdict is None:
                assert expected
                continue
            assert verdict.matches == expected
            verdicts[text] = verdict
            encoding = tokenizer.encode(text, add_special_tokens=False)
            in_ids = paths.auto.check_ids(encoding.ids)
            assert paths.onnx.check_ids(np.array(encoding.ids, np.int64)) == in_ids
            assert expected == tuple(
                Match(
                    match.trigger,
                    min(encoding.offsets[k][0] for k in range(match.start, match.end)),
                    max(encoding.offsets[k][1] for k in range(match.start, match.end)),
                )
                for match in in_ids
            )
        for monitor in (paths.auto, paths.onnx):
            assert monitor.check_batch(verdicts) == list(verdicts.values())

    check()


def test_the_filter_is_used_where_it_is_proven(paths: Paths) -> None:
    assert (paths.auto._prefilter is None) == (b'"Unigram"' in paths.bank.tokenizer_json)
    assert paths.onnx._prefilter is None


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_automaton_and_graph_find_the_same(data: st.DataObject) -> None:
    """On any n-grams over ids whose bytes look alike, near each other or shifted."""
    ids = st.sampled_from([0, 1, 2, 255, 256, 257, 65535, 65536, 0x01000000, 2**31 - 1])
    small = st.sampled_from([0, 1, 2, 255, 256, 257, 65536])
    ngrams = data.draw(
        st.lists(st.lists(small, min_size=1, max_size=5).map(tuple), unique=True, max_size=12)
    )
    ngrams.sort(key=len)
    onnx = graph_of(ngrams)
    assert ngrams_of(onnx, len(ngrams)) == ngrams
    rows = data.draw(st.lists(st.lists(ids, max_size=12), min_size=1, max_size=3))
    automaton = Automaton(ngrams)
    assert Graph(onnx).find(rows) == [automaton.find(row) for row in rows]


def graph_of(ngrams: list[tuple[int, ...]]) -> bytes:
    return matcher.build(ngrams, {})


@pytest.mark.parametrize("ids", [[-1], [2**32], [1.5], ["cf"], [None], 3, None])
def test_what_is_no_ids(paths: Paths, ids: object) -> None:
    for monitor in (paths.auto, paths.onnx):
        with pytest.raises(InvalidIds, match="pass those of one text"):
            monitor.check_ids(ids)  # type: ignore[arg-type]


def test_ids_may_hold_special_tokens_and_padding(paths: Paths) -> None:
    if not paths.bank.triggers:
        assert paths.auto.check_ids([0, 1, 2]) == ()
        return
    trigger = paths.bank.triggers[-1]
    row = [2, *trigger.token_ids, 3, 0, 0]
    for monitor in (paths.auto, paths.onnx):
        assert Match(trigger.id, 1, 1 + len(trigger.token_ids)) in monitor.check_ids(row)
        assert monitor.check_ids(iter(row)) == monitor.check_ids(row)


def test_an_engine_that_does_not_exist(paths: Paths, tmp_path: Path) -> None:
    compile_bank(paths.bank, tmp_path / "monitor")
    with pytest.raises(ConfigError, match="choose one of auto, onnx"):
        Monitor.load(tmp_path / "monitor", engine="cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_tables_of_another_number_of_triggers(count: int) -> None:
    with pytest.raises(MalformedArtifact, match=f"tables of {count} triggers"):
        ngrams_of(graph_of([(1,), (2, 3)]), count)


@pytest.mark.parametrize("data", [b"", b"\xff" * 20, b"\x3a\xff\xff\x03", b"\x3a\x01", b"\x3b"])
def test_bytes_that_are_no_tables(data: bytes) -> None:
    with pytest.raises(MalformedArtifact, match="compile anew"):
        ngrams_of(data, 1)


def test_single_ids_as_the_first_version_wrote_them() -> None:
    """It looked them up in int32; its longer triggers are in ``tests/golden``."""
    model = onnx.load_from_string(graph_of([(1,), (3,)]))
    clip, look_up, length = list(model.graph.node)
    cast = onnx.helper.make_node("Cast", ["clipped"], ["state_1"], to=onnx.TensorProto.INT32)
    look_up.input[1] = "state_1"
    del model.graph.node[:]
    model.graph.node.extend([clip, cast, look_up, length])
    assert Graph(model.SerializeToString()).find([[3, 2, 1]]) == [[(0, 2, 1), (2, 1, 1)]]


def test_a_large_graph_is_looked_at_in_a_moment() -> None:
    """The attributes of a node have an entry for each trigger."""
    ngrams: list[tuple[int, ...]] = [(a, b) for a in range(317) for b in range(317)]
    onnx = graph_of(ngrams)
    begin = time.process_time()
    check_graph(onnx)
    assert time.process_time() - begin < 0.5


def test_a_graph_that_finds_less_than_its_tables_say(tmp_path: Path) -> None:
    bank = BANKS["wordpiece"]
    compile_bank(bank, tmp_path / "monitor")
    manifest = Manifest.parse((tmp_path / "monitor" / "monitor.json").read_bytes(), "x")
    model = onnx.load(tmp_path / "monitor" / "monitor.onnx")
    attributes = {item.name: item for item in model.graph.node[0].attribute}
    attributes["pool_int64s"].ints[0] += 10_000  # of which no trigger begins
    with pytest.raises(MalformedArtifact, match="does not find all triggers"):
        Monitor(
            onnx=model.SerializeToString(),
            tokenizer_json=bank.tokenizer_json,
            manifest=manifest,
        )


def test_rows_of_a_batch_do_not_depend_on_each_other() -> None:
    session = onnxruntime.InferenceSession(graph_of([(1,), (1, 2)]))
    rows = np.array([[1, 2, 3], [3, 2, 2], [2, 1, 1]], np.int64)
    together = session.run(None, {"input_ids": rows})
    for number, row in enumerate(rows):
        for whole, alone in zip(together, session.run(None, {"input_ids": row[None]}), strict=True):
            assert whole[number].tolist() == alone[0].tolist()
    assert together[0].tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_a_clean_text_takes_few_nodes() -> None:
    """The walk is a branch that only a text with a hit takes."""
    graph = onnx.load_from_string(graph_of([(1,), (1, 2), (1, 2, 3, 4)])).graph
    assert [node.op_type for node in graph.node] == ["TfIdfVectorizer", "ReduceMax", "Cast", "If"]
