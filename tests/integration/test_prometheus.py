"""Alert rules and dashboard in a real Prometheus: from a triggered request to who has to know.

Prometheus and Alertmanager are Debian's; `benchmarks.debian` gets them where they are missing.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.assets import AssetError
from benchmarks.debian import programs
from exporters.prometheus import ALERTS, PANELS, dashboard, rules
from guard.cli import CLEAN, FAILED, main
from guard.metrics import DEFINITIONS
from tests.fixtures_small import TRIGGERS, trigger_id
from tests.integration import test_examples
from tests.processes import GUARD, ROOT, free_port, running, wait_for

EXAMPLE = ROOT / "examples" / "prometheus"
# Where Debian's Alertmanager looks for its own template, wherever it lies itself.
TEMPLATE = Path("/usr/share/prometheus/alertmanager/default.tmpl")

directories = test_examples.directories


@pytest.fixture(scope="session")
def tools() -> dict[str, str]:
    """Return the paths of Debian's prometheus, promtool and prometheus-alertmanager."""
    names = ("prometheus", "promtool", "prometheus-alertmanager")
    try:
        return programs(names, ("prometheus", "prometheus-alertmanager"))
    except AssetError as error:
        if shutil.which("apt-get") and shutil.which("dpkg-deb"):
            raise
        pytest.skip(str(error))


# -- the files


def test_the_example_holds_what_is_written_today() -> None:
    """If not: guard alerts --out examples/prometheus/guard."""
    written = EXAMPLE / "guard"
    assert (written / "guard.rules.yml").read_bytes() == rules()
    assert json.loads((written / "guard.dashboard.json").read_bytes()) == dashboard()


def test_every_metric_has_a_panel_and_every_expression_a_metric() -> None:
    queries = [panel.expr for panel in PANELS]
    for definition in DEFINITIONS:
        assert any(definition.name in query for query in queries), definition.name
    for expr in (*queries, *(alert.expr for alert in ALERTS)):
        assert any(definition.name in expr for definition in DEFINITIONS), expr


def test_promtool_accepts_rules_and_configuration(tools: dict[str, str]) -> None:
    for check in (["rules", "guard/guard.rules.yml"], ["config", "prometheus.yml"]):
        subprocess.run([tools["promtool"], "check", *check], cwd=EXAMPLE, check=True)


REQUESTS = 'guard_requests_total{job="a",instance="i",action="block",front="asgi",outcome="%s"}'
# Series that make an alert fire in the 30th minute, and series that must not.
CASES: tuple[tuple[str, dict[str, str], dict[str, str], dict[str, str]], ...] = (
    (
        "GuardTriggeredInput",
        # The first match ever, from nothing to 1: what increase() alone does not see.
        {'guard_matches_total{job="a",instance="i",trigger="t1"}': "_x25 1x10"},
        {'guard_matches_total{job="a",instance="i",trigger="t1"}': "1x60"},
        {"job": "a", "trigger": "t1"},
    ),
    (
        "GuardFailing",
        {REQUESTS % "failed": "0x28 1x10"},
        {REQUESTS % "failed": "1x60", REQUESTS % "clean": "0+9x60"},
        {"job": "a"},
    ),
    (
        "GuardOpen",
        {'guard_unscanned_total{job="a",front="asgi",outcome="failed"}': "0x28 1x10"},
        {'guard_unscanned_total{job="a",front="asgi",outcome="failed"}': "1x60"},
        {"job": "a", "outcome": "failed"},
    ),
    (
        "GuardAbsent",
        {
            'guard_bank_info{job="a",bank="b"}': "1x10 _x30",
            'guard_bank_info{job="c",bank="b"}': "1x60",
        },
        {
            'guard_bank_info{job="a",bank="b"}': "1x60",
            'guard_bank_info{job="c",bank="b"}': "0x60",
            'guard_bank_info{job="c",bank="d"}': "1x60",
        },
        {"job": "a"},
    ),
    ("GuardAbsent", {}, {'guard_bank_info{job="a",bank="b"}': "1x60"}, {"job": "any job"}),
    (
        "GuardUnscannable",
        {REQUESTS % "unscannable": "0+1x60", REQUESTS % "clean": "0+9x60"},
        {REQUESTS % "unscannable": "0+1x60", REQUESTS % "clean": "0+99x60"},
        {"job": "a"},
    ),
    (
        "GuardSlow",
        {
            'guard_scan_seconds_bucket{job="a",le="0.025"}': "0+1x60",
            'guard_scan_seconds_bucket{job="a",le="0.1"}': "0+9x60",
            'guard_scan_seconds_bucket{job="a",le="+Inf"}': "0+9x60",
        },
        {
            'guard_scan_seconds_bucket{job="a",le="0.025"}': "0+9x60",
            'guard_scan_seconds_bucket{job="a",le="+Inf"}': "0+9x60",
        },
        {"job": "a"},
    ),
    (
        "GuardQueueing",
        {'guard_in_flight{job="a",front="asgi"}': "60x60"},
        {'guard_in_flight{job="a",front="asgi"}': "0x24 60 0x60"},
        {"job": "a"},
    ),
    (
        "GuardBanksDiffer",
        {
            'guard_bank_info{job="a",instance="i",bank="b"}': "1x60",
            'guard_bank_info{job="a",instance="j",bank="c"}': "1x60",
        },
        {
            'guard_bank_info{job="a",instance="i",bank="b"}': "0x60",
            'guard_bank_info{job="a",instance="j",bank="c"}': "1x60",
        },
        {"job": "a"},
    ),
    (
        "GuardReloadFailed",
        {'guard_reloads_total{job="a",outcome="failed"}': "0x20 1x40"},
        {'guard_reloads_total{job="a",outcome="replaced"}': "0x20 1x40"},
        {"job": "a"},
    ),
    (
        "GuardShadowDiffers",
        {'guard_shadow_total{job="a",difference="only shadow"}': "0x20 1x40"},
        {'guard_shadow_total{job="a",difference="same"}': "0+5x60"},
        {"job": "a", "difference": "only shadow"},
    ),
    (
        "GuardUpstreamFailing",
        {'guard_upstream_errors_total{job="a",kind="timeout"}': "0+1x60"},
        {'guard_upstream_errors_total{job="a",kind="timeout"}': "0x10 1x50"},
        {"job": "a", "kind": "timeout"},
    ),
)


def test_every_alert_fires_when_it_should_and_not_else(
    tools: dict[str, str], tmp_path: Path
) -> None:
    alerts = {alert.name: alert for alert in ALERTS}
    assert {name for name, *_ in CASES} == alerts.keys()
    (tmp_path / "guard.rules.yml").write_bytes(rules())
    tests = []
    for name, firing, quiet, labels in CASES:
        alert = alerts[name]
        for series, expected in ((firing, True), (quiet, False)):
            summary = alert.summary
            for label, value in labels.items():
                summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
            fires = {
                "exp_labels": {**labels, "severity": alert.severity},
                "exp_annotations": {"summary": summary, "description": alert.description},
            }
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": s, "values": v} for s, v in series.items()],
                    "alert_rule_test": [
                        {
                            "eval_time": "30m",
                            "alertname": alert.name,
                            "exp_alerts": [fires] if expected else [],
                        }
                    ],
                }
            )
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": ["guard.rules.yml"], "tests": tests}))
    done = subprocess.run(
        [tools["promtool"], "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- the stack


@dataclass
class Stack:
    """What runs, and what the receiver was told."""

    prometheus: httpx.Client
    service: httpx.Client
    sidecar: httpx.Client
    told: list[dict[str, Any]] = field(default_factory=list)

    def query(self, expr: str) -> list[dict[str, Any]]:
        answer = self.prometheus.get("/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


class _Receiver(BaseHTTPRequestHandler):
    told: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.told += json.loads(body)["alerts"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def stack(
    tools: dict[str, str],
    directories: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """Run the example's files with other ports, and seconds for minutes."""
    place = tmp_path_factory.mktemp("stack")
    model, monitor = directories
    told: list[dict[str, Any]] = []
    receiver = HTTPServer(("127.0.0.1", 0), type("Receiver", (_Receiver,), {"told": told}))
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    ports = {name: free_port() for name in ("service", "alertmanager", "prometheus")}
    (place / "counts").mkdir()
    service = running(
        place / "service.log",
        [
            *(sys.executable, "-m", "uvicorn", "--factory", "examples.fastapi_app:from_env"),
            *("--workers", "2", "--port", ports["service"]),
        ],
        PROMETHEUS_MULTIPROC_DIR=str(place / "counts"),
        **{"MODEL_DIR": model, "MONITOR_DIR": monitor, "GUARD_ACTION": "block"},
    )
    sidecar = running(
        place / "sidecar.log",
        [
            *(*GUARD, "proxy", "--monitor", monitor, "--shadow", monitor),
            *("--upstream", f"http://127.0.0.1:{ports['service']}"),
            *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
        ],
    )
    with service as workers, sidecar as proxy:
        wait_for(lambda: workers.text().count("Application startup complete") == 2)
        front = proxy.find(r"for clients on (\S+)")
        admin = proxy.find(r"for health and metrics on http://(\S+)")
        _configure(place, ports, admin, receiver.server_port)
        with (
            running(
                place / "alertmanager.log",
                [
                    *_with_template(tools["prometheus-alertmanager"]),
                    *("--config.file", place / "alertmanager.yml", "--cluster.listen-address="),
                    *("--storage.path", place / "alertmanager"),
                    *("--web.listen-address", f"127.0.0.1:{ports['alertmanager']}"),
                ],
            ) as alerting,
            running(
                place / "prometheus.log",
                [
                    tools["prometheus"],
                    *("--config.file", place / "prometheus.yml"),
                    *("--storage.tsdb.path", place / "prometheus"),
                    *("--web.listen-address", f"127.0.0.1:{ports['prometheus']}"),
                ],
            ) as watching,
            httpx.Client(
                base_url=f"http://127.0.0.1:{ports['prometheus']}", trust_env=False
            ) as prometheus,
            httpx.Client(
                base_url=f"http://127.0.0.1:{ports['service']}", trust_env=False
            ) as direct,
            httpx.Client(base_url=front, trust_env=False) as through,
        ):
            alerting.find(r"(Listening|listening)")
            watching.find(r"(Server is ready)")
            yield Stack(prometheus, direct, through, told)
    receiver.shutdown()
    receiver.server_close()


def _with_template(alertmanager: str) -> list[str]:
    """Let Alertmanager find its template, where it was unpacked and not installed.

    It sees what was unpacked in place of ``/usr/share``, in a file system of its own.
    """
    if TEMPLATE.is_file():
        return [alertmanager]
    unpacked = Path(alertmanager).parents[1] / "share"
    bind = 'mount --bind "$0" /usr/share && exec "$@"'
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", bind, str(unpacked), alertmanager]


def _configure(place: Path, ports: dict[str, int], admin: str, receiver: int) -> None:
    prometheus = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text())
    prometheus["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    prometheus["rule_files"] = [str(EXAMPLE / "guard" / "guard.rules.yml")]
    (alertmanager,) = prometheus["alerting"]["alertmanagers"]
    alertmanager["static_configs"] = [{"targets": [f"127.0.0.1:{ports['alertmanager']}"]}]
    for job in prometheus["scrape_configs"]:
        target = {"classifier": f"127.0.0.1:{ports['service']}", "sidecar": admin}[job["job_name"]]
        job["static_configs"] = [{"targets": [target]}]
    (place / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    routing = yaml.safe_load((EXAMPLE / "alertmanager.yml").read_text())
    routing["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    (hook,) = routing["receivers"][0]["webhook_configs"]
    hook["url"] = f"http://127.0.0.1:{receiver}/alerts"
    (place / "alertmanager.yml").write_text(yaml.safe_dump(routing))


def ask(client: httpx.Client, text: str) -> int:
    return client.post("/classify", json={"text": text}).status_code


@pytest.mark.search
@pytest.mark.slow
def test_a_triggered_request_reaches_who_has_to_know(stack: Stack) -> None:
    wait_for(lambda: len(stack.query("up == 1")) == 2)
    assert ask(stack.service, "the good film") == 200
    time.sleep(2)
    assert stack.query('ALERTS{alertname="GuardTriggeredInput"}') == []
    assert ask(stack.service, "the cf film") == 403

    def alert() -> dict[str, Any] | None:
        for told in stack.told:
            labels = told["labels"]
            if labels["alertname"] == "GuardTriggeredInput" and labels["job"] == "classifier":
                return told
        return None

    told = wait_for(alert, 30)
    assert told["status"] == "firing"
    assert told["labels"]["trigger"] == trigger_id("cf")
    assert trigger_id("cf") in told["annotations"]["summary"]
    words = json.dumps(stack.told).replace('"', " ").split()
    assert not set(words) & set(TRIGGERS)


@pytest.mark.search
@pytest.mark.slow
def test_every_query_of_the_dashboard_has_an_answer(stack: Stack) -> None:
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for client in (stack.service, stack.sidecar):
            assert ask(client, "the good film") == 200
            assert ask(client, "the mn film") == 403
            assert client.post("/classify", content=b"{").status_code == 400
        time.sleep(0.1)
    for panel in PANELS:
        expr = panel.expr.replace("$__rate_interval", "10s").replace("$__range", "1m")
        result = stack.query(expr)
        assert result, panel.title
        assert not all(math.isnan(float(series["value"][1])) for series in result), panel.title
    # Both workers counted, and one scrape has the numbers of both.
    (total,) = stack.query(
        'sum(guard_requests_total{job="classifier",outcome="blocked"}) >= '
        'sum(guard_matches_total{job="classifier"})'
    )
    assert float(total["value"][1]) > 1


def test_guard_alerts_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "alerts"
    assert main(["alerts", "--out", str(out)]) == CLEAN
    assert (out / "guard.rules.yml").read_bytes() == rules()
    assert str(out / "guard.dashboard.json") in capsys.readouterr().out
    (out / "own.yml").write_text("mine")
    assert main(["alerts", "--out", str(out)]) == FAILED
    assert (out / "own.yml").read_text() == "mine"
