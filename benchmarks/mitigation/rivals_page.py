"""The page of the product beside other defences, rendered from its results file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.intervals import difference, share
from benchmarks.targets import verdict

_NAMES = {
    "none": "no defence",
    "ONION": "ONION",
    "STRIP": "STRIP, per text",
    "LMSanitator": "LMSanitator's output monitor",
    "fine-tuning": "plain fine-tuning",
    "block": "**monitor, block**",
    "strip": "**monitor, strip**",
    "purified": "**purified**",
    "both": "**purified, and monitor, strip**",
    "clean": "fine-tuned from the clean encoder",
}
OURS = ("block", "strip", "purified", "both")
RIVALS = ("ONION", "STRIP", "LMSanitator", "fine-tuning")

Figures = Mapping[str, Any]


def render(result: Mapping[str, Any]) -> str:
    """Render ``docs/benchmarks/rivals.md``."""
    made: Mapping[str, Figures] = result["defences"]
    environment, sanitator = result["environment"], result["sanitator"]
    compared = [(own, rival, compare(made[own], made[rival])) for own in OURS for rival in RIVALS]
    lines = [
        "# Other defences",
        "",
        "Written by `python -m benchmarks mitigation-rivals`; do not edit. One model "
        f"({result['model']}) fine-tuned on one task ({result['task']}), one run, seed "
        f"{result['seed']}, one thread of {environment['processor']}, torch "
        f"{environment['packages']['torch']}, load average {result['load_average']} before the run "
        "(above 0: other work was running, and times are too long).",
        "",
        f"Of {result['triggers']} planted triggers, {result['live']} force a class after "
        "fine-tuning; each triggered text holds one of these. The bank is what the search found, "
        "not what was planted. *Recall*: triggered texts that are refused or changed; *false "
        "alarms*: clean ones. *Attack success*: of the triggered texts of other classes, those "
        "classified as what the trigger forces undefended. A refused text is no success, and on "
        "clean text no right answer. *Added*: median time of a text, in milliseconds, before the "
        "classifier. *Preparation*: seconds, without the fine-tuning that every user does. "
        "Brackets hold 95 % intervals (Wilson).",
        "",
        "| | texts of each kind | recall | false alarms | clean accuracy | attack success | added "
        "| preparation |",
        "|" + "---|" * 8,
        *(_row(name, made[key]) for key, name in _NAMES.items()),
        "",
        f"Thresholds of ONION and STRIP are at {result['false_alarms']:.0%} of held-out clean "
        f"texts ({result['held_out']}; of ONION {result['onion_texts']}), which would else be "
        "chosen by their users. ONION's language model is SmolLM2-135M, standing in for GPT-2; it "
        f"is slow, and reads the first {result['onion_texts']} of the texts. It removes words; "
        "STRIP and LMSanitator refuse. STRIP replaces half of the words, in 20 copies of each "
        "text, by those of texts that the classifier was trained on; neither number was tuned, and "
        "half of the copies lose a trigger of one word. LMSanitator's search ends after "
        f"{sanitator['rounds']} rounds; the published one has 30, and each takes minutes here. It "
        f"found {made['LMSanitator']['found']} vectors, and its recall is a lower bound of what "
        f"more rounds give; the scan found {made['block']['found']} units. Plain fine-tuning "
        f"trains the poisoned classifier on, with {result['longer']} times the steps: its accuracy "
        "is that of longer training too, which none of the others had. STRIP and LMSanitator need "
        "the model at each text, the monitor its tokenizer.",
        "",
        "## Targets",
        "",
        "Ahead of every rival on attack success, accuracy and latency at once: behind on none of "
        "the three and ahead on one, on the same texts. Points are the product's less the rival's, "
        "with the 95 % interval of the difference (Newcombe); what the interval leaves open is "
        "called ahead or behind all the same.",
        "",
        "| | against | texts | attack success | clean accuracy | added | |",
        "|" + "---|" * 7,
        *(
            f"| {_NAMES[own]} | {_NAMES[rival]} | {found['texts']} | {found['success']} | "
            f"{found['accuracy']} | {found['added']} | {verdict(found['reached'])} |"
            for own, rival, found in compared
        ),
        "",
        *_not_ahead(compared),
        "",
    ]
    return "\n".join(lines)


def compare(own: Figures, rival: Figures) -> dict[str, Any]:
    """Hold one of the product's ways against a rival, on the texts that both had."""
    texts = min(own["texts"], rival["texts"])
    one, other = (figures["counts"][str(texts)] for figures in (own, rival))
    sides, said = [], {}
    for what, hits, trials, better in (
        ("success", "hits", "trials", -1),
        ("accuracy", "right", None, 1),
    ):
        pair = [(c[hits], texts if trials is None else c[trials]) for c in (one, other)]
        ours, theirs = (h / t if t else 0.0 for h, t in pair)
        low, high = difference(*pair[0], *pair[1])
        sides.append(_side(better * (ours - theirs)))
        said[what] = (
            f"{100 * (ours - theirs):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], {sides[-1]}"
        )
    sides.append(_side(rival["ms"] - own["ms"]))
    said["added"] = f"{own['ms']:.3g} against {rival['ms']:.3g} ms, {sides[-1]}"
    return {
        **said,
        "texts": texts,
        "sides": dict(zip(("attack success", "clean accuracy", "latency"), sides, strict=True)),
        "reached": "behind" not in sides and "ahead" in sides,
    }


def _side(gain: float) -> str:
    return "level" if gain == 0 else "ahead" if gain > 0 else "behind"


def _not_ahead(compared: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    lines = []
    for own, rival, found in compared:
        behind = [what for what, side in found["sides"].items() if side == "behind"]
        if behind:
            lines.append(f"- {_NAMES[own]}, against {_NAMES[rival]}: {', '.join(behind)}")
    if not lines:
        return ["The product is behind no rival on any of the three."]
    return ["Where the product is behind:", "", *lines]


def _row(name: str, figures: Figures) -> str:
    texts = figures["texts"]
    counts = figures["counts"][str(texts)]
    looked = [
        share(counts[key], texts, 3) if figures["looks"] else "-"
        for key in ("caught", "false_alarms")
    ]
    return (
        f"| {name} | {texts} | {' | '.join(looked)} | {share(counts['right'], texts, 3)} | "
        f"{share(counts['hits'], counts['trials'], 3)} | {figures['ms']:.3g} | "
        f"{figures['seconds']:,.0f} |"
    )
