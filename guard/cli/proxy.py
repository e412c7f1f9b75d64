"""guard proxy: the sidecar."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from guard.cli.codes import CLEAN
from guard.cli.extras import extra
from guard.errors import ConfigError

HELP = "guard a server in any language, as a sidecar"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--upstream", required=True, metavar="URL", help="http://host:port")
    parser.add_argument("--monitor", type=Path, required=True, help="directory of a monitor")
    parser.add_argument("--public-key", type=Path, help="refuse a monitor that it did not sign")
    parser.add_argument(
        "--deep", type=Path, help="directory of a deep check, for texts that hold no trigger"
    )
    parser.add_argument(
        "--shadow", type=Path, help="directory of another monitor, which only counts differences"
    )
    parser.add_argument(
        "--listen", type=_address, default=("127.0.0.1", 8080), help="for clients; 127.0.0.1:8080"
    )
    parser.add_argument(
        "--admin",
        type=_address,
        default=("127.0.0.1", 9180),
        help="for /healthz, /readyz and /metrics; 127.0.0.1:9180",
    )
    parser.add_argument(
        "--policy", type=Path, help="TOML file of a policy; by default GUARD_* in the environment"
    )
    # These go before what file or environment say.
    parser.add_argument("--action", help="on a trigger: observe, flag, strip or block")
    parser.add_argument("--on-failure", help="of the guard itself: open or closed")
    parser.add_argument("--on-unscannable", help="bodies: allow or block")
    parser.add_argument("--max-body", type=int, help="bytes of a body")
    parser.add_argument(
        "--field",
        action="append",
        dest="fields",
        help="dotted path of a text in the JSON body; repeat; by default every string",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        help="scan text, form or multipart bodies too, or the query; repeat",
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds that the server may take; 60"
    )
    parser.add_argument(
        "--drain", type=_drain, default=30, help="seconds to finish requests after SIGTERM; 30"
    )
    parser.add_argument("--audit-log", metavar="FILE", help="JSON lines; - is stdout")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    with extra("the sidecar", "proxy"):
        from guard.proxy import GuardedProxy, ReverseProxy
        from guard.sidecar import Sidecar, log_to
    from guard.live import LiveMonitor
    from guard.policy import Policy
    from guard.reload import Follower, look

    log_to(options.audit_log)
    seen = look(options.monitor)
    live = LiveMonitor(options.monitor, require_signature=options.public_key, deep=options.deep)
    if options.shadow is not None:
        live.watch(options.shadow)
    policy = Policy.from_env() if options.policy is None else Policy.from_toml(options.policy)
    names = ("action", "on_failure", "on_unscannable", "max_body")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    server = ReverseProxy(options.upstream, timeout=options.timeout)
    if _same(server.address, options.listen):
        raise ConfigError(
            f"--upstream {options.upstream} is where the sidecar itself listens; name the server "
            "behind it, or listen elsewhere with --listen"
        )
    app = GuardedProxy(
        server,
        monitor=live,
        fields=options.fields,
        also=options.also,
        policy=replace(policy, **given),
    )
    follower = Follower(live, options.monitor, seen=seen)
    Sidecar(app, follower, address=options.listen, admin=options.admin, drain=options.drain).run()
    return CLEAN


def _same(server: tuple[str, int], listen: tuple[str, int]) -> bool:
    """Whether what is sent to `server` would come in at `listen`."""
    hosts = ["127.0.0.1" if host == "localhost" else host for host in (server[0], listen[0])]
    everywhere = hosts == ["127.0.0.1", "0.0.0.0"]
    return server[1] == listen[1] and (everywhere or hosts[0] == hosts[1])


def _drain(value: str) -> int:
    # A day and more is no drain but a server that does not end.
    if not value.isdecimal() or len(value) > 5 or int(value) > 86_400:
        raise argparse.ArgumentTypeError(f"{value!r} is no number of seconds from 0 to 86400")
    return int(value)


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{value!r} is no HOST:PORT")
    return host.strip("[]"), int(port)
