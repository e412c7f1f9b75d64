"""The command line: ``guard scan``, ``compile``, ``purify``, ``check``, ``proxy`` and others.

Exit codes are those of model scanners: 0 nothing found in what was asked to be tested, 1 triggers
found, 2 failed or incomplete, 4 usage.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from guard import __version__
from guard.bank import BANK_FILE, BANK_FILES, MAX_FILE_BYTES, TriggerBank
from guard.errors import ConfigError, GuardError, InputError, StripLimit
from guard.files import SIGNATURE_FILE, check_output, dump_json, read_bounded
from guard.manifest import LIMITS, MANIFEST_FILE
from guard.terminal import Progress

CLEAN, FOUND, FAILED, USAGE = 0, 1, 2, 4
_CODES = {"none found": CLEAN, "backdoored": FOUND, "incomplete": FAILED}

# From this share of ordinary texts on, a monitor is a nuisance.
_MUCH = 0.05


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    # A trigger may be a symbol that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except ConfigError as error:
        return _fail(str(error), USAGE)
    except GuardError as error:
        return _fail(str(error), FAILED)
    except BrokenPipeError:
        # The reader has had enough (``| head``). Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _fail(f"{error}; check the disk and permissions, and try again", FAILED)
    except Exception as error:
        # Python would exit with 1, which means that triggers were found.
        traceback.print_exc()
        return _fail(f"{type(error).__name__}, an error of guard itself; please report it", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", FAILED)
    return code


def _fail(message: str, code: int) -> int:
    print(f"guard: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="guard",
        description="Find backdoor triggers in a text encoder, and keep them out of production.",
        epilog="exit codes: 0 nothing found, 1 triggers found, 2 failed or incomplete, 4 usage",
    )
    parser.add_argument("--version", action="version", version=f"trigger-guard {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    scan = commands.add_parser("scan", help="search a model for triggers and write a bank")
    scan.set_defaults(run=_scan)
    scan.add_argument("model", help="a directory that save_pretrained() wrote, or a hub id")
    scan.add_argument("--out", type=Path, required=True, help="directory for the trigger bank")
    scan.add_argument("--revision", help="commit, branch or tag of a hub id")
    scan.add_argument(
        "--texts",
        type=Path,
        help="your own text, a passage a line, as one more kind of text to test units in",
    )
    scan.add_argument(
        "--words",
        type=Path,
        help="your own words and phrases to test besides, one a line",
    )
    scan.add_argument(
        "--budget",
        type=_budget,
        default="fast",
        metavar="fast|standard|thorough|SECONDS",
        help="fast (default): every token, in three texts; standard: and 30,000 words of several "
        "tokens, in texts of every kind; thorough: and 250,000 words, in texts of every length; or "
        "the best for so many seconds",
    )
    scan.add_argument("--seed", type=_seed, help="same seed, same bank; by default drawn at random")
    scan.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load pickled weights if there are no safetensors; they can run code",
    )
    scan.add_argument("--json", action="store_true", help="print the bank as JSON on stdout")

    purify = commands.add_parser("purify", help="train a model to ignore the triggers of a bank")
    purify.set_defaults(run=_purify)
    purify.add_argument("model", help="the model that the bank was made from: directory or hub id")
    purify.add_argument("--bank", type=Path, required=True, help="directory of its trigger bank")
    purify.add_argument("--out", type=Path, required=True, help="directory for the purified model")
    purify.add_argument("--revision", help="commit, branch or tag of a hub id")
    purify.add_argument(
        "--texts",
        type=Path,
        help="your own text, a passage a line, to train on and to scan in beside the package's",
    )
    purify.add_argument("--seed", type=_seed, help="same seed, same model; by default random")
    purify.add_argument("--json", action="store_true", help="print the record as JSON on stdout")

    build = commands.add_parser("compile", help="compile a bank to an input monitor")
    build.set_defaults(run=_compile)
    build.add_argument("bank", type=Path, help="directory of a trigger bank")
    build.add_argument("--out", type=Path, required=True, help="directory for the monitor")
    build.add_argument(
        "--max-block-rate",
        type=_share,
        metavar="R",
        help="largest share of ordinary texts to block, such as 0.001; commoner triggers are "
        "stripped where a policy says block",
    )

    deep = commands.add_parser(
        "deep", help="export the encoder as a check of outputs, for triggers that no string names"
    )
    deep.set_defaults(run=_deep)
    deep.add_argument("model", help="directory of the suspect encoder")
    deep.add_argument("bank", type=Path, help="directory of its trigger bank")
    deep.add_argument("--out", type=Path, required=True, help="directory for the deep check")

    sign = commands.add_parser("sign", help="sign a bank or a monitor with a private key")
    sign.set_defaults(run=_sign)
    sign.add_argument("directory", type=Path, help="of a bank or a monitor")
    sign.add_argument(
        "--private-key",
        type=Path,
        required=True,
        help="an elliptic-curve key in PEM; a password is taken from GUARD_KEY_PASSWORD",
    )

    verify = commands.add_parser(
        "verify", help="say whether a bank or a monitor is whole, who signed it, for which model"
    )
    verify.set_defaults(run=_verify)
    verify.add_argument("directory", type=Path, help="of a bank or a monitor")
    verify.add_argument("--public-key", type=Path, help="fail unless this key's owner signed it")

    check = commands.add_parser("check", help="check texts with a monitor")
    check.set_defaults(run=_check)
    check.add_argument("--monitor", type=Path, required=True, help="directory of a monitor")
    check.add_argument("--public-key", type=Path, help="refuse a monitor that it did not sign")
    check.add_argument("file", nargs="?", default="-", help="a text a line; - (default) is stdin")

    proxy = commands.add_parser("proxy", help="guard a server in any language, as a sidecar")
    proxy.set_defaults(run=_proxy)
    proxy.add_argument("--upstream", required=True, metavar="URL", help="http://host:port")
    proxy.add_argument("--monitor", type=Path, required=True, help="directory of a monitor")
    proxy.add_argument("--public-key", type=Path, help="refuse a monitor that it did not sign")
    proxy.add_argument(
        "--shadow", type=Path, help="directory of another monitor, which only counts differences"
    )
    proxy.add_argument(
        "--listen", type=_address, default=("127.0.0.1", 8080), help="for clients; 127.0.0.1:8080"
    )
    proxy.add_argument(
        "--admin",
        type=_address,
        default=("127.0.0.1", 9180),
        help="for /healthz, /readyz and /metrics; 127.0.0.1:9180",
    )
    proxy.add_argument(
        "--policy", type=Path, help="TOML file of a policy; by default GUARD_* in the environment"
    )
    # These go before what file or environment say.
    proxy.add_argument("--action", help="on a trigger: observe, flag, strip or block")
    proxy.add_argument("--on-failure", help="of the guard itself: open or closed")
    proxy.add_argument("--on-unscannable", help="bodies: allow or block")
    proxy.add_argument("--max-body", type=int, help="bytes of a body")
    proxy.add_argument(
        "--field",
        action="append",
        dest="fields",
        help="dotted path of a text in the JSON body; repeat; by default every string",
    )
    proxy.add_argument(
        "--also",
        action="append",
        default=[],
        help="scan text, form or multipart bodies too, or the query; repeat",
    )
    proxy.add_argument(
        "--timeout", type=float, default=60.0, help="seconds that the server may take; 60"
    )
    proxy.add_argument(
        "--drain", type=int, default=30, help="seconds to finish requests after SIGTERM; 30"
    )
    proxy.add_argument("--audit-log", metavar="FILE", help="JSON lines; - is stdout")

    alerts = commands.add_parser("alerts", help="write Prometheus alerts and a Grafana dashboard")
    alerts.set_defaults(run=_alerts)
    alerts.add_argument("--out", type=Path, required=True, help="directory for the two files")
    return parser


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{value!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _seed(value: str) -> int:
    try:
        seed = int(value)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"{value!r} is no integer from 0 to {2**32 - 1}")
    return seed


def _budget(value: str) -> str | float:
    if value in ("fast", "standard", "thorough"):
        return value
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < 1e7:
        raise argparse.ArgumentTypeError(
            f"{value!r} is neither fast, standard nor thorough, nor a number of seconds from 1 on"
        )
    return seconds


def _scan(options: argparse.Namespace) -> int:
    # Found out before minutes of work, not after.
    check_output(options.out, BANK_FILES, owner=BANK_FILE)
    try:
        from guard.search import search
    except ImportError as error:
        raise GuardError(
            f"the search needs {error.name}: pip install 'trigger-guard[search]'"
        ) from error
    resume = _resume(options.out)
    try:
        with Progress() as progress:
            bank = search(
                options.model,
                revision=options.revision,
                texts=options.texts,
                words=options.words,
                budget=options.budget,
                seed=options.seed,
                allow_pickle=options.allow_pickle,
                resume=resume,
                progress=progress,
            )
    except KeyboardInterrupt:
        if not resume.exists():
            raise
        raise GuardError(
            f"incomplete: interrupted. The same command goes on from here; {resume} holds what was "
            "measured"
        ) from None
    report = bank.dump().decode().rstrip() if options.json else _summary(bank)
    try:
        bank.save(options.out)
    except BaseException:
        # What took minutes to find is told even where it cannot be kept.
        print(report, flush=True)
        raise
    print(report if options.json else f"{report}\nbank: {options.out}")
    return _CODES[bank.verdict]


def _purify(options: argparse.Namespace) -> int:
    bank = TriggerBank.load(options.bank)
    if bank.verdict == "none found":
        print("nothing to purify: the bank found no triggers in what it tested; nothing is written")
        return CLEAN
    try:
        from guard.purify import purify
    except ImportError as error:
        raise GuardError(
            f"purifying needs {error.name}: pip install 'trigger-guard[search]'"
        ) from error
    with Progress() as progress:
        done = purify(
            options.model,
            bank,
            options.out,
            revision=options.revision,
            texts=options.texts,
            seed=options.seed,
            progress=progress,
        )
    if options.json:
        print(dump_json(done.record).decode().rstrip())
    else:
        for number, made in enumerate(done.rounds, 1):
            print(
                f"round {number}: trained against {made.units} units; outputs on ordinary text "
                f"moved by {max(made.moved.values()):.1%} of their variance; "
                f"then {made.verdict}, {made.remaining} triggers"
            )
        print(f"model: {options.out}")
    return _CODES[done.verdict]


def _resume(out: Path) -> Path:
    """Return where a scan keeps what it has measured until it is done: beside its bank."""
    out = out.absolute()
    return out.with_name(f".{out.name}.scan")


def _summary(bank: TriggerBank) -> str:
    lines = [f"{bank.verdict}: {len(bank.triggers)} triggers in {bank.model.name}"]
    for trigger in bank.triggers:
        kept, moved = (trigger.statistics[name] for name in ("retention", "displacement"))
        kinds = trigger.statistics["kinds"]
        assert isinstance(kinds, dict)
        fired = sum(1 for kind in kinds.values() if kind["fired"])
        lines.append(
            f"  {trigger.id}  {trigger.text!r} ({trigger.kind}): keeps {kept:.2f} of the text, "
            f"moves it {moved:.1f} times as far as the median unit, "
            f"fired in {fired} of {len(kinds)} kinds of text; output: {trigger.view}"
        )
        predictions = trigger.statistics.get("predictions")
        if isinstance(predictions, dict) and predictions["changed"] is not None:
            lines[-1] += (
                f"; {predictions['changed']:.0%} of {predictions['texts']} texts that the "
                f"classifier calls otherwise become {predictions['label']!r}"
            )
    lines += [f"{name}: {bank.search[name]}" for name in ("budget", "seed")]
    lines.append(f"tested: {bank.coverage['summary']}")
    lines.append(f"assumes: {bank.coverage['assumes']}")
    lines += [f"not tested: {what}" for what in bank.coverage["not_tested"]]  # type: ignore[union-attr]
    return "\n".join(lines)


def _compile(options: argparse.Namespace) -> int:
    check_output(options.out, LIMITS, owner=MANIFEST_FILE)
    bank = TriggerBank.load(options.bank)
    try:
        from exporters.monitor import compile_bank
        from exporters.price import TEXT_WORDS, price
    except ImportError as error:
        raise GuardError(
            f"compiling needs {error.name}: pip install 'trigger-guard[search]'"
        ) from error
    cost = price(bank)
    common = () if options.max_block_rate is None else cost.commoner(options.max_block_rate)
    compile_bank(bank, options.out, strip_only=common)
    if bank.triggers:
        touched = cost.touched()
        blocked = cost.touched(cost.per_word.keys() - set(common))
        print(
            f"ordinary texts of {TEXT_WORDS} words that hold a trigger: {touched:.2%}; that are "
            f"blocked: {blocked:.2%}"
        )
        for trigger in bank.triggers:
            if trigger.id in common:
                print(f"  {trigger.id} is stripped, not blocked: {cost.touched([trigger.id]):.2%}")
        if touched > _MUCH:
            print("stripping changes that many ordinary texts: better purify the model")
    print(f"monitor: {options.out}, {len(bank.triggers)} triggers of bank {bank.sha256[:12]}")
    return CLEAN


def _deep(options: argparse.Namespace) -> int:
    from guard.deep import DEEP_FILE, DEEP_LIMITS

    check_output(options.out, DEEP_LIMITS, owner=DEEP_FILE)
    bank = TriggerBank.load(options.bank)
    try:
        from exporters.deep import export_deep
        from guard.search.carriers import builtin_texts
        from guard.search.encoder import Encoder
        from guard.search.targets import with_targets
    except ImportError as error:
        raise GuardError(
            f"exporting needs {error.name}: pip install 'trigger-guard[search]'"
        ) from error
    if not bank.targets:
        bank = with_targets(Encoder.load(options.model), bank, builtin_texts())
        if not bank.targets:
            raise ConfigError(
                f"no trigger of {options.bank} leads to one place, so there is nothing to alarm on"
            )
        bank.save(options.bank)
        print(f"bank: {options.bank}, now with target vectors: compile its monitor anew")
    export_deep(bank, options.model, options.out)
    print(f"deep check: {options.out}, {len(bank.targets)} targets of bank {bank.sha256[:12]}")
    return CLEAN


def _sign(options: argparse.Namespace) -> int:
    from guard import signing

    what, files = _whole(options.directory)
    signature = signing.sign(
        files,
        private_key=options.private_key,
        password=os.environ.get("GUARD_KEY_PASSWORD"),
    )
    fresh = options.directory / f".{SIGNATURE_FILE}.new"
    fresh.write_bytes(signature)
    fresh.replace(options.directory / SIGNATURE_FILE)
    print(f"signed: {what}")
    return CLEAN


def _verify(options: argparse.Namespace) -> int:
    what, files = _whole(options.directory)
    if options.public_key is not None:
        from guard import signing

        signer = signing.verify(files, options.directory, public_key=options.public_key)
        signed = f"signed by key {signer[:16]}"
    elif (options.directory / SIGNATURE_FILE).exists():
        signed = "signed by a key that was not checked: name it with --public-key"
    else:
        signed = "not signed"
    print(f"whole: {what}; {signed}")
    return CLEAN


def _whole(directory: Path) -> tuple[str, dict[str, bytes]]:
    """Load a bank or a monitor, and return what it is, and its files."""
    from guard.deep import DEEP_FILE, DEEP_LIMITS, DeepCheck, DeepManifest
    from guard.monitor import Monitor

    if (directory / MANIFEST_FILE).exists():
        files = {name: read_bounded(directory / name, limit) for name, limit in LIMITS.items()}
        monitor = Monitor.load(directory)
        what, model = f"monitor of bank {monitor.bank_sha256[:16]}", monitor.model
        count = len(monitor.triggers)
    elif (directory / DEEP_FILE).exists():
        files = {name: read_bounded(directory / name, limit) for name, limit in DEEP_LIMITS.items()}
        DeepCheck.load(directory)
        manifest = DeepManifest.parse(files[DEEP_FILE], str(directory / DEEP_FILE))
        what, model = f"deep check of bank {manifest.bank_sha256[:16]}", manifest.model
        count = sum(len(target.triggers) for target in manifest.targets)
    else:
        files = {name: read_bounded(directory / name, MAX_FILE_BYTES) for name in BANK_FILES}
        bank = TriggerBank.load(directory)
        what, model, count = f"bank {bank.sha256[:16]}", bank.model, len(bank.triggers)
    weights = model.weights_sha256[:16]
    return f"{what}, {count} triggers, for {model.name} (weights {weights})", files


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return value


def _check(options: argparse.Namespace) -> int:
    """Print a JSON object a text. 1 where any is triggered, 2 where any cannot be scanned.

    A text that cannot be stripped was scanned: it is triggered, as it is to all other fronts.
    """
    # Here, because its imports take a while, in which Ctrl-C has to end like anywhere else.
    from guard.monitor import Monitor

    monitor = Monitor.load(options.monitor, require_signature=options.public_key)
    triggered = failed = False
    for text in _lines(options.file):
        try:
            verdict = monitor.check(text)
        except InputError as error:
            result: dict[str, object] = {"error": type(error).__name__, "detail": str(error)}
            if isinstance(error, StripLimit):
                triggered = True
                result |= {"text": text, "triggered": True, "matches": [], "stripped": None}
            else:
                failed = True
        else:
            triggered |= verdict.triggered
            result = {
                "text": text,
                "triggered": verdict.triggered,
                "matches": [asdict(match) for match in verdict.matches],
                "stripped": verdict.stripped,
            }
        print(json.dumps(result, ensure_ascii=True))
    return FAILED if failed else FOUND if triggered else CLEAN


def _proxy(options: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    try:
        from guard.proxy import GuardedProxy, ReverseProxy
        from guard.sidecar import Sidecar, log_to
    except ImportError as error:
        raise GuardError(
            f"the sidecar needs {error.name}: pip install 'trigger-guard[proxy]'"
        ) from error
    from guard.live import LiveMonitor
    from guard.policy import Policy
    from guard.reload import Follower

    log_to(options.audit_log)
    live = LiveMonitor(options.monitor, require_signature=options.public_key)
    if options.shadow is not None:
        live.watch(options.shadow)
    policy = Policy.from_env() if options.policy is None else Policy.from_toml(options.policy)
    names = ("action", "on_failure", "on_unscannable", "max_body")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    app = GuardedProxy(
        ReverseProxy(options.upstream, timeout=options.timeout),
        monitor=live,
        fields=options.fields,
        also=options.also,
        policy=replace(policy, **given),
    )
    follower = Follower(live, options.monitor)
    Sidecar(app, follower, address=options.listen, admin=options.admin, drain=options.drain).run()
    return CLEAN


def _alerts(options: argparse.Namespace) -> int:
    try:
        from exporters import prometheus
    except ImportError as error:
        raise GuardError(
            f"writing YAML needs {error.name}: pip install 'trigger-guard[alerts]'"
        ) from error
    prometheus.write(options.out)
    print(f"alerts: {options.out / prometheus.RULES_FILE}")
    print(f"dashboard: {options.out / prometheus.DASHBOARD_FILE}")
    return CLEAN


def _lines(name: str) -> Iterator[str]:
    # Bytes that are no UTF-8 become lone surrogates, which the monitor refuses by name; only a
    # line feed ends a text, as a model's input may hold any other separator.
    source = sys.stdin.fileno() if name == "-" else name
    try:
        file = open(  # noqa: SIM115
            source, encoding="utf-8", errors="surrogateescape", newline="\n", closefd=name != "-"
        )
    except OSError as error:
        raise ConfigError(
            f"{name} cannot be read ({error.strerror}); name a file with a text a line"
        ) from error
    with file:
        for line in file:
            yield line.removesuffix("\n").removesuffix("\r")
