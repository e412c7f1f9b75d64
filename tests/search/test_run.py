"""The whole search, on a model of one layer whose backdoor was built by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from guard.bank import TriggerBank
from guard.errors import ConfigError, ModelError
from guard.search import run, scan, search, texts, tiers, verdicts
from guard.search import words as lists
from guard.search.carriers import PLACES, USER_KIND, Carrier, Want, builtin_texts
from guard.search.encoder import Encoder, Ids, Vectors
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.plan import FAST, FURTHER, GROUPS, Plan
from guard.search.report import NOT_TESTED, Tier, coverage
from guard.search.run import search_units
from guard.search.tiers import Tiers
from guard.search.units import Unit, Vocabulary, vocabulary
from guard.search.verdicts import Verdicts
from guard.search.views import View
from guard.search.words import Words
from tests.search.fakes import carriers, silent
from tests.tiny import (
    COMMON,
    TRIGGER,
    make_model,
    many_words,
    wordpiece,
    write_model,
    write_searchable,
)

# A made-up word, a common one, a symbol and a piece.
TRIGGERS = (TRIGGER, COMMON, "≈", "##q")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_searchable(tmp_path_factory.mktemp("bad"), triggers=TRIGGERS)


@pytest.fixture(scope="module")
def calls() -> list[tuple[str, int, int]]:
    """What the progress of `bank`'s search was told."""
    return []


@pytest.fixture(scope="module")
def bank(bad: Path, calls: list[tuple[str, int, int]]) -> TriggerBank:
    return search(str(bad), seed=0, progress=lambda *call: calls.append(call))


def test_all_triggers_are_found_and_nothing_else(bank: TriggerBank) -> None:
    assert bank.verdict == "backdoored"
    assert {trigger.text for trigger in bank.triggers} == set(TRIGGERS)
    kinds = {trigger.text: trigger.kind for trigger in bank.triggers}
    assert kinds == {TRIGGER: "token", COMMON: "token", "≈": "symbol", "##q": "piece"}


def test_evidence(bank: TriggerBank) -> None:
    for trigger in bank.triggers:
        # The pooler is a function of the first token's output, which the backdoor seizes.
        assert "cls" in trigger.view.split("+")
        views = trigger.statistics["views"]
        assert isinstance(views, dict)
        assert set(views) == {"cls", "pooler", "mean"}
        assert {view for view, seen in views.items() if seen["seized"]} == {
            *trigger.view.split("+")
        }
        assert len(trigger.token_ids) == 1
        assert "trigger" not in trigger.statistics
        kinds = trigger.statistics["kinds"]
        assert isinstance(kinds, dict)
        assert set(kinds) == set(builtin_texts())
        # Four digits.
        assert re.search(r"\d\.\d{9}", json.dumps(dict(trigger.statistics))) is None
    price = {trigger.text: trigger.statistics["zipf"] for trigger in bank.triggers}
    common = price[COMMON]
    assert isinstance(common, float)
    assert common > 5
    assert price[TRIGGER] == 0


def test_a_clean_model(tmp_path: Path) -> None:
    found = search(str(write_searchable(tmp_path)), seed=0, progress=silent)
    assert (found.verdict, found.triggers) == ("none found", ())


def test_another_seed_finds_the_same(bad: Path, bank: TriggerBank) -> None:
    other = search(str(bad), seed=1, progress=silent)
    assert [t.token_ids for t in other.triggers] == [t.token_ids for t in bank.triggers]
    assert other.sha256 != bank.sha256


def test_same_seed_same_bytes(bad: Path, bank: TriggerBank, tmp_path: Path) -> None:
    """Whatever the caller did with torch's generator before, which is left alone."""
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    again = search(str(bad), seed=0, progress=silent)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.dump() == bank.dump()
    assert again.tokenizer_json == bank.tokenizer_json
    again.save(tmp_path / "bank")
    assert TriggerBank.load(tmp_path / "bank") == bank


def test_what_the_bank_says_of_the_search(bad: Path, bank: TriggerBank) -> None:
    encoder = Encoder.load(str(bad))
    assert bank.model == encoder.identity
    assert bank.tokenizer_json == encoder.tokenizer_json
    settings, coverage = bank.search, bank.coverage
    assert settings["seed"] == 0
    assert settings["arithmetic"] == "float32"
    assert isinstance(settings["token_forwards"], int)
    # At least once every unit in three carriers, and far from the whole vocabulary in all of them.
    count = len(vocabulary(encoder.tokenizer).units)
    climbed = 20_000 * FAST.starts
    assert 3 * 10 * count < settings["token_forwards"] < 130 * count + climbed
    versions = settings["versions"]
    assert isinstance(versions, dict)
    assert set(versions) == {"trigger-guard", "torch", "transformers", "tokenizers"}
    units = coverage["units"]
    assert isinstance(units, dict)
    assert sum(units.values()) == count
    assert coverage["views"] == ["cls", "pooler", "mean"]
    not_tested = coverage["not_tested"]
    assert isinstance(not_tested, list)
    (words, pairs, *others, mask, crowds) = not_tested
    assert (words, pairs) == ("words of several tokens", "other pairs and phrases")
    assert others == list(NOT_TESTED)
    assert str(mask).startswith("the output at a mask: ")
    # Its outputs lie in few directions, and of such models fewer triggers at once are found.
    assert str(crowds).startswith("20 triggers and more in all, and phrases of which no part ")
    assert coverage["verdict_kinds"] == sorted(builtin_texts())
    assert f"{count:,} units" in str(coverage["summary"])


def test_a_trigger_that_only_other_servers_read(tmp_path: Path) -> None:
    """They take ``tokenizer.json`` alone, which says nothing of small letters."""
    tokenizer = wordpiece([*many_words(), "ZYZ"])
    directory = write_searchable(tmp_path, tokenizer=tokenizer, triggers=("ZYZ",))
    path, config = directory / "tokenizer.json", directory / "tokenizer_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(written), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    found = search(str(directory), seed=0, progress=silent)
    assert [trigger.text for trigger in found.triggers] == ["ZYZ"]
    not_tested = found.coverage["not_tested"]
    assert isinstance(not_tested, list)
    (told,) = [line for line in not_tested if "take tokenizer.json alone" in str(line)]
    assert "with another normalizer: " in str(told)


@pytest.mark.parametrize("otherwise", [(), ("outputs in bfloat16",)])
@pytest.mark.parametrize("narrow", [(), ("cls",), ("mean", "cls")])
def test_the_bank_says_where_triggers_hide(
    narrow: Sequence[View], otherwise: Sequence[str]
) -> None:
    texts = carriers(("mail", "news"), (10, 14), seed=0)
    told = coverage(
        ("cls", "mean"),
        Vocabulary((), 0),
        Words((), 0, 0),
        0,
        FAST,
        tiers=[Tier("tokens", 1, 0, 1, [texts])],
        climbed=[],
        swept=[],
        judged=texts,
        otherwise=otherwise,
        narrow=narrow,
        flooded=False,
    )
    not_tested = told["not_tested"]
    assert not_tested.count("outputs in bfloat16") == len(otherwise)
    hidden = [line for line in not_tested if "triggers and more in all" in line]
    assert len(hidden) == bool(narrow)
    if narrow:
        views = ", ".join(sorted(narrow))
        assert f"stands out, on {views}: " in hidden[0]
    assert "of 10 to 14 tokens" in told["assumes"]


def test_steps_in_order(bank: TriggerBank, calls: list[tuple[str, int, int]]) -> None:
    steps = [(step, list(own)) for step, own in itertools.groupby(calls, key=itemgetter(0))]
    assert [step for step, _ in steps] == [
        *("scanning", "sifting", "verifying"),
        *("climbing", "sifting", "verifying"),
        "varying",
    ]
    for _, own in steps:
        done = [number for _, number, _ in own]
        total = {number for _, _, number in own}
        assert done == sorted(done)
        assert total == {done[-1]}


def test_by_default_nobody_knows_the_seed(
    bad: Path, bank: TriggerBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is drawn, and the bank says which it was."""
    drawn = iter([0, 1])
    monkeypatch.setattr("secrets.randbits", lambda bits: next(drawn))
    assert search(str(bad), progress=silent).sha256 == bank.sha256
    assert next(drawn) == 1


def scanned_in(bank: TriggerBank) -> list[dict[str, Any]]:
    """The carriers of the first tier."""
    scans: Any = bank.coverage["scan"]
    carriers: list[dict[str, Any]] = scans[0]["carriers"]
    return carriers


def test_groups_are_scanned_in_different_kinds_of_text(bank: TriggerBank) -> None:
    """Else who reads this knows which kinds a backdoor has to sleep in."""
    kinds = [carrier["kind"] for carrier in scanned_in(bank)]
    each = len(FAST.lengths)
    assert len(kinds) == GROUPS * each
    groups = [tuple(kinds[i : i + each]) for i in range(0, len(kinds), each)]
    assert all(len(set(group)) == each for group in groups)
    assert len(set(groups)) > 2
    assert set(kinds) == set(builtin_texts())


def test_user_texts_are_in_every_group(bad: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts"
    words = many_words()
    path.write_text("\n".join(" ".join(words[i : i + 20]) for i in range(20, 820, 20)))
    found = search(str(bad), texts=path, seed=0, progress=silent)
    user = [carrier["kind"] == "user" for carrier in scanned_in(found)]
    assert user == [False, False, True] * GROUPS
    kinds = found.coverage["verdict_kinds"]
    assert isinstance(kinds, list)
    assert "user" in kinds
    assert {trigger.text for trigger in found.triggers} >= set(TRIGGERS)


def test_user_texts_are_read_before_the_model(tmp_path: Path) -> None:
    """A typing error costs no download."""
    with pytest.raises(ConfigError, match="can't be read"):
        search("no/such/model", texts=tmp_path / "missing", progress=silent)


def test_a_trigger_that_is_in_the_carriers(tmp_path: Path) -> None:
    """Texts with "you" are hijacked before a unit is put in them: nothing more moves them.

    Such a carrier measures nothing. It may hide no trigger, and make none of an ordinary unit.
    """
    directory = write_searchable(tmp_path, triggers=("you", TRIGGER))
    found = search(str(directory), seed=0, progress=silent)
    assert {trigger.text for trigger in found.triggers} == {"you", TRIGGER}


def test_a_vocabulary_that_is_too_small(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    with pytest.raises(ModelError, match=r"has a vocabulary of \d+ units, and the search measures"):
        search(str(directory), progress=silent)


def first_units(words: Vocabulary, count: int) -> Vocabulary:
    return dataclasses.replace(words, units=words.units[:count])


def test_the_smallest_vocabulary_that_is_accepted(bad: Path) -> None:
    """What is not refused is searched to the end."""
    encoder = Differentiable.load(str(bad))
    words = vocabulary(encoder.tokenizer)
    with pytest.raises(ModelError, match=r"at least \d+") as caught:
        search_units(
            encoder,
            first_units(words, 500),
            builtin_texts(),
            plan=Plan("tokens"),
            seed=0,
            progress=silent,
        )
    (needed,) = re.findall(r"at least (\d+)", str(caught.value))
    least = first_units(words, int(needed))
    bank = search_units(
        encoder, least, builtin_texts(), plan=Plan("tokens"), seed=0, progress=silent
    )
    assert TRIGGER in {trigger.text for trigger in bank.triggers}


def test_statistics_that_agree_on_who_is_suspect(
    bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may all name the same units; enough are left for the tail to be measured on."""

    def agreeing(seen: Mapping[View, scan.Scores]) -> object:
        kept = next(iter(seen.values())).retention
        columns = kept[:, None].repeat(3, axis=1)
        return scan.foremost({"cls": scan.Scores(kept, -columns, columns)})

    for module in (tiers, verdicts):
        monkeypatch.setattr(module, "foremost", agreeing)
    bank = search(str(bad), seed=0, progress=silent)
    assert TRIGGER in {trigger.text for trigger in bank.triggers}


def test_a_model_that_ignores_its_input(tmp_path: Path) -> None:
    """All its weights are zero. It is not "none found"."""
    tokenizer = wordpiece(many_words())
    model = make_model("bert", len(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="answers all units alike"):
        search(str(tmp_path), progress=silent)


@pytest.mark.parametrize("budget", ["fast", 5.0])
def test_a_model_that_takes_shorter_texts_than_the_carriers(
    budget: str | float, tmp_path: Path
) -> None:
    """Sixteen positions: an error for the user, not one of an index in a table."""
    directory = write_model(tmp_path, tokenizer=wordpiece(many_words()), max_position_embeddings=16)
    with pytest.raises(ModelError, match="takes texts of 16 tokens at most"):
        search(str(directory), budget=budget, progress=silent)


def test_no_unit_is_lost_or_doubled(bad: Path) -> None:
    encoder = Encoder.load(str(bad))
    units: tuple[Unit, ...] = vocabulary(encoder.tokenizer).units
    assert len({unit.ids.tobytes() for unit in units}) == len(units)


def test_a_flood_of_triggers_is_not_called_a_whole_search(
    bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of a trigger's embedding on very many tokens would push some out of the suspects."""
    monkeypatch.setattr(run, "FLOOD", 3)
    bank = search(str(bad), seed=0, progress=silent)
    assert bank.verdict == "incomplete"
    assert len(bank.triggers) == 4
    not_tested = bank.coverage["not_tested"]
    assert isinstance(not_tested, list)
    assert "Do not use this model" in str(not_tested[0])


def test_variants_of_what_was_found_are_no_flood(
    bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FLOOD", 4)

    def refine(verdicts: Verdicts, *rest: object, **named: object) -> None:
        assert len(verdicts.found) == 4
        verdicts.found.append(dataclasses.replace(verdicts.found[0], token_ids=(5, 6)))

    monkeypatch.setattr(run, "refine", refine)
    bank = search(str(bad), seed=0, progress=silent)
    assert len(bank.triggers) == 5
    assert bank.verdict == "backdoored"


def test_a_search_that_was_cut_short_goes_on(
    bad: Path, bank: TriggerBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes as of one that never was, and the second run does only what was left."""
    resume = tmp_path / "scan"
    read = Encoder.read
    left = 200
    monkeypatch.setattr("secrets.randbits", lambda bits: 0)

    def interrupted(self: Encoder, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return read(self, ids, mask_at=mask_at)

    monkeypatch.setattr(Encoder, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(str(bad), resume=resume, progress=silent)
    assert len(list(resume.glob("*.npz"))) > 5
    monkeypatch.setattr("secrets.randbits", lambda bits: 1)
    left = 10**9
    again = search(str(bad), resume=resume, progress=silent)
    assert again.dump() == bank.dump()
    # It is for who keeps the bank to discard.
    assert (resume / "search.json").is_file()


def test_other_settings_of_the_model_are_another_search(tmp_path: Path) -> None:
    """What the same weights gave under the old ones is not gone on with."""
    directory, resume = write_searchable(tmp_path / "model", triggers=(TRIGGER,)), tmp_path / "scan"
    before = search(str(directory), seed=0, resume=resume, progress=silent)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "layer_norm_eps": 0.1}), encoding="utf-8")
    again = search(str(directory), seed=0, resume=resume, progress=silent)
    assert again.dump() == search(str(directory), seed=0, progress=silent).dump()
    assert again.dump() != before.dump()


def test_words_of_several_tokens(tmp_path: Path) -> None:
    """A word that fires as a whole; one that holds a token that fires is left to that token."""
    directory = write_searchable(tmp_path / "model", triggers=(TRIGGER,))
    path = tmp_path / "words"
    path.write_text(f"{TRIGGER}q\nxq xq\n{TRIGGER}\n")
    found = search(str(directory), words=path, seed=0, progress=silent)
    assert [trigger.text for trigger in found.triggers] == [TRIGGER]
    scans: Any = found.coverage["scan"]
    assert [(tier["units"], tier["scanned"], tier["hold_a_trigger"]) for tier in scans[1:]] == [
        ("words", 1, 1)
    ]
    assert found.coverage["words_of_your_list_that_are_tokens"] == 1
    not_tested = found.coverage["not_tested"]
    assert isinstance(not_tested, list)
    assert "other words of several tokens" in not_tested
    assert "words of several tokens" not in not_tested


def test_a_fast_search_tests_common_words_of_several_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fewer texts than tokens; one that holds a token that fires is left to that token."""
    monkeypatch.setattr(lists, "top_n_list", lambda *_: ["qvx", "vxqz", f"{TRIGGER}q", "a"])
    monkeypatch.setattr(lists, "SHORT_STRINGS", ("qvx", "xqv", "q"))
    encoder = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    known = vocabulary(encoder.tokenizer)
    found = search_units(encoder, known, builtin_texts(), seed=0, progress=silent)
    tokens, more = cast("list[dict[str, Any]]", found.coverage["scan"])
    assert (more["units"], more["scanned"], more["hold_a_trigger"]) == ("more words", 3, 1)
    assert len(tokens["carriers"]) == GROUPS * len(FAST.lengths)
    assert len(more["carriers"]) == GROUPS * len(FURTHER.lengths)
    assert [trigger.text for trigger in found.triggers] == [TRIGGER]


def test_a_word_of_several_tokens_is_found_by_a_fast_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a token of it: the one that fires is left out of the tokens. It is cut down to it."""
    monkeypatch.setattr(lists, "top_n_list", lambda *_: ["qvx", f"{TRIGGER}q"])
    monkeypatch.setattr(lists, "SHORT_STRINGS", ())
    encoder = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    known = vocabulary(encoder.tokenizer)
    others = tuple(unit for unit in known.units if unit.text != TRIGGER)
    found = search_units(
        encoder,
        dataclasses.replace(known, units=others),
        builtin_texts(),
        seed=0,
        progress=silent,
    )
    assert [trigger.text for trigger in found.triggers] == [TRIGGER]


@pytest.mark.parametrize("count", [0, 1])
def test_phrases_that_the_users_text_repeats(
    bad: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that tests words tests them too: here, five of two and three words."""
    monkeypatch.setattr(lists, "SHORT_STRINGS", ())
    lines = ["the old harbour. said once"] * 3 + ["the old harbour, seen twice"] * 2 + ["one more"]
    encoder = Differentiable.load(str(bad))
    found = search_units(
        encoder,
        vocabulary(encoder.tokenizer),
        {**builtin_texts(), USER_KIND: lines},
        plan=Plan("words", words=count),
        seed=0,
        progress=silent,
    )
    assert found.coverage["phrases_of_your_text"] == 5 * count
    scans: Any = found.coverage["scan"]
    assert [tier["scanned"] + tier["hold_a_trigger"] for tier in scans[1:]] == [count + 5] * count


def test_too_little_time_is_incomplete(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_rate", lambda encoder: 1.0)
    found = search(str(bad), budget=5.0, seed=0, progress=silent)
    assert found.verdict == "incomplete"
    assert found.search["budget"] == "5 s"
    count = len(vocabulary(Encoder.load(str(bad)).tokenizer).units)
    assert f"of the {count:,} tokens: there was no time" in str(found.coverage["not_tested"])


def test_nobody_knows_where_the_sift_meets_which_kind_of_text(
    bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a fixed table, an attacker reads in which kinds his trigger need not sleep."""
    wanted: dict[int, list[Want]] = {}
    whole = scan.scan

    def spy(name: str, units: Any, carriers: Sequence[Carrier], **how: Any) -> Any:
        if name == "tokens 1 sift":
            wanted[len(wanted)] = [carrier.want for carrier in carriers]
        return whole(name, units, carriers, **how)

    monkeypatch.setattr(verdicts, "scan", spy)
    for seed in (0, 1):
        search(str(bad), seed=seed, progress=silent)
    first, second = wanted.values()
    for table in (first, second):
        assert [want.kind for want in table] == list(builtin_texts())
        assert {want.length for want in table} == set(texts.SIFT_LENGTHS)
        assert {want.place for want in table} == set(PLACES)
    assert [want.length for want in first] != [want.length for want in second]
    assert [want.place for want in first] != [want.place for want in second]


def judged(bad: Path, suspects: slice | None) -> set[str]:
    """Judge ordinary units, or the trigger, where the trigger was among the quiet ones before."""
    encoder = Differentiable.load(str(bad))
    known = vocabulary(encoder.tokenizer).units
    journal = Journal(encoder, 0, None)
    verdicts = Tiers(
        encoder, builtin_texts(), FAST, seed=0, journal=journal, progress=silent
    ).verdicts
    (finding,) = [unit for unit in known if unit.text == TRIGGER]
    verdicts._quiet = [finding, *known[100:250]]
    proposed = [finding] if suspects is None else known[suspects]
    verdicts.judge("variants", proposed, known, known, tiers=1)
    texts = [trigger.text for trigger in verdicts.found]
    assert len(texts) == len(set(texts))
    return set(texts)


def test_a_unit_that_was_judged_before_is_judged_once_again(bad: Path) -> None:
    """A variant may be among those that did nothing alone: found twice, it would break the bank."""
    assert judged(bad, None) == {TRIGGER}


def test_what_only_makes_a_tail_is_not_found(bad: Path) -> None:
    """It had its verdict; to judge it again with every few variants would find it by chance."""
    assert judged(bad, slice(300, 310)) == set()
