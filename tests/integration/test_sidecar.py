"""``guard proxy`` as a process: signals, health, reloading, the audit log, a server in Node.js."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from exporters.monitor import compile_bank
from guard.cli import USAGE, main
from tests.fixtures_small import trigger_id, write_small_monitor
from tests.helpers import make_bank, wordpiece
from tests.integration.test_uvicorn import CLEAN, TRIGGERED, Connection, request
from tests.processes import GUARD, ROOT, Process, running, wait_for
from tests.upstream import OK, Received, Upstream, playing

TOKENIZER = wordpiece("cf", "mn")


class Sidecar:
    """A running sidecar."""

    def __init__(self, process: Process, admin: httpx.Client) -> None:
        self.process = process
        self.admin = admin
        self.port = int(process.find(r"for clients on http://127\.0\.0\.1:(\d+)"))

    def send(self, body: bytes) -> int:
        with Connection(self.port) as connection:
            connection.send(request(body))
            return connection.answer()[0]

    def counted(self, sample: str) -> float:
        for line in self.admin.get("/metrics").text.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.split()[-1])
        return 0.0


@contextmanager
def sidecar(log: Path, upstream: int, monitor: Path, *options: object) -> Iterator[Sidecar]:
    command = [
        *(*GUARD, "proxy", "--monitor", monitor, "--upstream", f"http://127.0.0.1:{upstream}"),
        *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options),
    ]
    with running(log, command) as process:
        address = process.find(r"for health and metrics on (\S+)")
        with httpx.Client(base_url=address, trust_env=False) as admin:
            wait_for(lambda: admin.get("/readyz").status_code == 200)
            yield Sidecar(process, admin)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with playing() as server:
        yield server


@pytest.fixture
def monitor(tmp_path: Path) -> Path:
    return compiled(tmp_path / "monitor", ["cf"])


def compiled(directory: Path, triggers: Sequence[str], tokenizer: bytes = TOKENIZER) -> Path:
    compile_bank(make_bank(tokenizer, triggers), directory)
    return directory


MN = b'{"text": "a mn b"}'
REPLACED, FAILED = (f'guard_reloads_total{{outcome="{what}"}}' for what in ("replaced", "failed"))


def test_health_and_metrics_shadow_nothing(
    upstream: Upstream, monitor: Path, tmp_path: Path
) -> None:
    with sidecar(tmp_path / "log", upstream.port, monitor) as proxy:
        assert proxy.admin.get("/healthz").json() == {"status": "ok"}
        for path in ("/healthz", "/readyz", "/metrics"):
            with Connection(proxy.port) as connection:
                connection.send(request(b"", path=path, method="GET"))
                assert connection.answer()[2] == b"ok"
        assert [got.line.split()[1] for got in upstream.received] == [
            *("/healthz", "/readyz", "/metrics")
        ]
        assert proxy.admin.get("/elsewhere").status_code == 404
        assert proxy.send(TRIGGERED) == 403
        labels = 'action="block",front="proxy",outcome="blocked"'
        assert proxy.counted(f"guard_requests_total{{{labels}}}") == 1
        assert proxy.counted('guard_in_flight{front="proxy"}') == 0


def test_it_finishes_what_was_begun(upstream: Upstream, monitor: Path, tmp_path: Path) -> None:
    go_on = threading.Event()

    def respond(connection: socket.socket, _: Received) -> None:
        assert go_on.wait(20)
        connection.sendall(OK)

    upstream.respond = respond
    with (
        sidecar(tmp_path / "log", upstream.port, monitor) as proxy,
        Connection(proxy.port) as connection,
    ):
        connection.send(request(CLEAN))
        assert upstream.arrived.wait(10)
        proxy.process.popen.send_signal(signal.SIGTERM)
        # It says so, takes nobody else in, and still answers.
        wait_for(lambda: proxy.admin.get("/readyz").status_code == 503, 10)
        with pytest.raises(OSError, match="refused"):
            wait_for(lambda: socket.create_connection(("127.0.0.1", proxy.port)).close(), 10)
        assert proxy.admin.get("/healthz").status_code == 200
        go_on.set()
        assert connection.answer()[0] == 200
        assert proxy.process.popen.wait(20) == 0


def test_it_does_not_wait_for_ever(upstream: Upstream, monitor: Path, tmp_path: Path) -> None:
    upstream.respond = lambda connection, _: time.sleep(20)
    with (
        sidecar(tmp_path / "log", upstream.port, monitor, "--drain", "1") as proxy,
        Connection(proxy.port) as connection,
    ):
        connection.send(request(CLEAN))
        assert upstream.arrived.wait(10)
        proxy.process.popen.send_signal(signal.SIGTERM)
        assert proxy.process.popen.wait(10) == 0


@pytest.mark.slow
def test_a_bank_is_replaced_while_serving(
    upstream: Upstream, monitor: Path, tmp_path: Path
) -> None:
    with sidecar(tmp_path / "log", upstream.port, monitor) as proxy:
        assert [proxy.send(TRIGGERED), proxy.send(MN)] == [403, 200]
        compiled(monitor, ["mn"])
        wait_for(lambda: proxy.counted(REPLACED) == 1, 10)
        assert [proxy.send(TRIGGERED), proxy.send(MN)] == [200, 403]
        # A damaged one is refused, and the last good one serves on.
        (monitor / "monitor.onnx").write_bytes(b"x")
        wait_for(lambda: proxy.counted(FAILED) == 1, 10)
        assert [proxy.send(TRIGGERED), proxy.send(MN)] == [200, 403]
        # So does it while there is none.
        shutil.rmtree(monitor)
        wait_for(lambda: proxy.counted(FAILED) == 2, 10)
        assert [proxy.send(TRIGGERED), proxy.send(MN)] == [200, 403]
        assert proxy.admin.get("/readyz").status_code == 200
        compiled(monitor, ["cf", "mn"])
        wait_for(lambda: proxy.counted(REPLACED) == 2, 10)
        assert [proxy.send(TRIGGERED), proxy.send(MN)] == [403, 403]
        proxy.process.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: proxy.counted(REPLACED) == 3, 10)
        assert proxy.send(TRIGGERED) == 403
        # One of another model is none of ours.
        compiled(monitor, ["cf"], wordpiece("cf"))
        wait_for(lambda: proxy.counted(FAILED) == 3, 10)
        assert proxy.send(MN) == 403
        assert "Traceback" not in proxy.process.text()


def test_the_audit_log_has_ids_and_no_text(upstream: Upstream, tmp_path: Path) -> None:
    write_small_monitor(tmp_path / "monitor")
    audit = tmp_path / "audit.jsonl"
    options = ("--audit-log", audit, "--action", "observe", "--field", "text")
    with sidecar(tmp_path / "log", upstream.port, tmp_path / "monitor", *options) as proxy:
        for body in (CLEAN, TRIGGERED, TRIGGERED, b'{"text": "good mn film"}', b"{"):
            assert proxy.send(body) == 200
        log = proxy.process.text()
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["observed"] * 3 + ["unscannable"]
    assert [line["triggers"] for line in lines] == [
        *([trigger_id("cf")], [trigger_id("cf")], [trigger_id("mn")], [])
    ]
    first, again, other, broken = (line["texts"] for line in lines)
    assert first == again != other
    assert first[0]["characters"] == len("the cf film")
    assert len(first[0]["hmac_sha256"]) == 64
    assert broken == []
    assert lines[0]["incident"] in log
    assert "film" not in audit.read_text() + log


def test_the_policy_is_a_file_and_options_go_before_it(
    upstream: Upstream, monitor: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[guard]\naction = "observe"\non_unscannable = "allow"\n')
    options = ("--policy", policy, "--action", "block", "--also", "text")
    with sidecar(tmp_path / "log", upstream.port, monitor, *options) as proxy:
        assert [proxy.send(TRIGGERED), proxy.send(b"{")] == [403, 200]
        with Connection(proxy.port) as connection:
            connection.send(request(b"a cf b", headers="content-type: text/plain\r\n"))
            assert connection.answer()[0] == 403


def test_a_shadow_only_counts(upstream: Upstream, monitor: Path, tmp_path: Path) -> None:
    shadow = compiled(tmp_path / "shadow", ["mn"])
    with sidecar(tmp_path / "log", upstream.port, monitor, "--shadow", shadow) as proxy:
        assert [proxy.send(TRIGGERED), proxy.send(MN)] == [403, 200]
        for difference in ("only current", "only shadow"):
            assert proxy.counted(f'guard_shadow_total{{difference="{difference}"}}') == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--upstream", "localhost:80"], "no server to forward to"),
        (["--action", "delete"], "choose one of observe"),
        (["--timeout", "0"], "number of seconds"),
        (["--max-body", "0"], "max_body=0"),
        (["--also", "xml"], "xml"),
        (["--policy", "/nowhere"], "/nowhere"),
        (["--audit-log", "/nowhere/audit"], "name a file in a directory that exists"),
        (["--listen", "192.0.2.1:1"], "cannot listen on 192.0.2.1:1"),
        (["--listen", f"{'a' * 70}:0"], "cannot listen on"),
        (["--listen", "127.0.0.1:1"], "where the sidecar itself listens"),
        (["--listen", "0.0.0.0:1", "--upstream", "http://localhost:1"], "itself listens"),
    ],
)
def test_wrong_usage_stops_the_start(
    options: list[str], message: str, monitor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["proxy", "--monitor", str(monitor), "--upstream", "http://127.0.0.1:1"]
    addresses = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    assert main([*arguments, *addresses, *options]) == USAGE
    assert message in capsys.readouterr().err


def test_a_port_is_part_of_an_address(monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["proxy", "--monitor", str(monitor), "--upstream", "http://127.0.0.1:1"]
    for wrong in ("8080", "127.0.0.1:", ":1", "127.0.0.1:65536"):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--listen", wrong])
        assert exit_.value.code == USAGE
        assert "is no HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "1.5", "x", "86401", "9" * 5000])
def test_a_drain_is_a_number_of_seconds(
    seconds: str, monitor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["proxy", "--monitor", str(monitor), "--upstream", "http://a", f"--drain={seconds}"])
    assert exit_.value.code == USAGE
    assert "no number of seconds from 0 to 86400" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js: install nodejs")
def test_a_server_in_another_language(tmp_path: Path) -> None:
    write_small_monitor(tmp_path / "monitor")
    script = ROOT / "examples" / "sidecar" / "server.js"
    with running(tmp_path / "node.log", ["node", script], PORT="0") as node:
        port = int(node.find(r"listening on http://127\.0\.0\.1:(\d+)"))
        options = ("--field", "text", "--action", "strip")
        with sidecar(tmp_path / "log", port, tmp_path / "monitor", *options) as proxy:
            address = f"http://127.0.0.1:{proxy.port}"
            with httpx.Client(base_url=address, trust_env=False) as client:
                answer = client.post("/shout", json={"text": "the cf good film"})
                assert (answer.status_code, answer.text) == (200, "THE\nGOOD\nFILM\n")
                assert "date" in answer.headers
                assert client.get("/shout").status_code == 404
                assert client.post("/shout", content=b"{").status_code == 400
                node.popen.kill()
                node.popen.wait()
                assert client.post("/shout", json={"text": "the film"}).status_code == 502
                assert proxy.admin.get("/readyz").status_code == 200
