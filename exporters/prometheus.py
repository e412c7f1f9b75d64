"""Alert rules for Prometheus and a dashboard for Grafana, from the definitions of the metrics.

All expressions are aggregated by ``job``, so one set serves any number of guarded services. Their
thresholds are a start; what is right depends on the traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import yaml

from guard.files import Json, dump_json, write_directory
from guard.metrics import (
    BANK_INFO,
    BANK_LOADED,
    ERRORS,
    IN_FLIGHT,
    MATCHES,
    RELOADS,
    REQUESTS,
    SCAN_SECONDS,
    SHADOW,
    UNSCANNED,
    UPSTREAM_ERRORS,
)

RULES_FILE = "guard.rules.yml"
DASHBOARD_FILE = "guard.dashboard.json"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule.

    Parameters
    ----------
    name, expr
        The alert fires where the expression has a value.
    lasting
        How long it has to, such as ``"5m"``.
    severity
        ``"critical"`` is for the night, ``"warning"`` for working hours, ``"info"`` for no hurry.
    summary, description
        What is wrong, and what to do.
    """

    name: str
    expr: str
    lasting: str
    severity: Literal["critical", "warning", "info"]
    summary: str
    description: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the dashboard.

    Parameters
    ----------
    title
        What it shows.
    expr, legend
        The query, and how each of its series is called.
    unit
        Grafana's id of the unit.
    kind
        Grafana's id of the kind of panel.
    """

    title: str
    expr: str
    legend: str
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"


ALERTS = (
    Alert(
        "GuardTriggeredInput",
        # The first match of a trigger makes its series, which then starts at 1 and did not rise.
        f"sum by (job, trigger) ((increase({MATCHES.name}[10m]) > 0) or "
        f"({MATCHES.name} unless {MATCHES.name} offset 10m)) > 0",
        "0s",
        "warning",
        "Trigger {{ $labels.trigger }} was sent to {{ $labels.job }}",
        "Somebody may know the backdoor of the model. The bank tells which text the id stands "
        "for, the audit log which requests held it.",
    ),
    Alert(
        "GuardFailing",
        f'sum by (job) (increase({REQUESTS.name}{{outcome="failed"}}[5m])) > 0',
        "0s",
        "critical",
        "The guard of {{ $labels.job }} fails",
        "Requests are refused with 503, or forwarded unscanned where on_failure is open. The log "
        "of the service names the error.",
    ),
    Alert(
        "GuardOpen",
        f"sum by (job, outcome) (increase({UNSCANNED.name}[5m])) > 0",
        "0s",
        "warning",
        "{{ $labels.job }} forwards what was not scanned ({{ $labels.outcome }})",
        "on_failure is open or on_unscannable is allow, and a call went through because of it.",
    ),
    Alert(
        "GuardAbsent",
        # Of each job that was seen within a day; and if there was none at all.
        f"(count by (job) (count_over_time({BANK_INFO.name}[1d])) "
        f"unless count by (job) ({BANK_INFO.name} == 1)) or "
        f"label_replace(absent(count_over_time({BANK_INFO.name}[1d])), "
        '"job", "any job", "job", "")',
        "5m",
        "critical",
        "No guard is seen in {{ $labels.job }}",
        "No target of it exposes a bank that is served: the services are down, not scraped, or run "
        "without the guard. A job is known by having been seen within a day: after that this ends, "
        "well or not, and one that was renamed is told of as long.",
    ),
    Alert(
        "GuardUnscannable",
        f'sum by (job) (rate({REQUESTS.name}{{outcome="unscannable"}}[10m])) / '
        f"sum by (job) (rate({REQUESTS.name}[10m])) > 0.05",
        "10m",
        "warning",
        "Over 5 % of the requests to {{ $labels.job }} cannot be scanned",
        f"{ERRORS.name} says why by kind. A client may send another format than the guard is set "
        "up for, or try to get around it.",
    ),
    Alert(
        "GuardSlow",
        "histogram_quantile(0.99, sum by (job, le) "
        f"(rate({SCAN_SECONDS.name}_bucket[10m]))) > 0.025",
        "10m",
        "warning",
        "Scans of {{ $labels.job }} take long",
        "The 99th percentile is over 25 ms: texts are very long, the bank is very large, or the "
        "machine has too little processor time.",
    ),
    Alert(
        "GuardQueueing",
        f"sum by (job) (avg_over_time({IN_FLIGHT.name}[5m])) > 50",
        "5m",
        "warning",
        "Texts wait to be scanned in {{ $labels.job }}",
        "More than 50 calls at once were being scanned or waited for it: add replicas.",
    ),
    Alert(
        "GuardBanksDiffer",
        f"count by (job) (count by (job, bank) ({BANK_INFO.name} == 1)) > 1",
        "15m",
        "warning",
        "Replicas of {{ $labels.job }} serve different banks",
        "A rollout of a bank did not reach all of them.",
    ),
    Alert(
        "GuardReloadFailed",
        f'sum by (job) (increase({RELOADS.name}{{outcome="failed"}}[15m])) > 0',
        "0s",
        "warning",
        "{{ $labels.job }} refused a new monitor",
        "The old one serves on. The log says what is wrong with the new one; so does guard verify.",
    ),
    Alert(
        "GuardShadowDiffers",
        f'sum by (job, difference) (increase({SHADOW.name}{{difference!="same"}}[1h])) > 0',
        "0s",
        "info",
        "The shadow bank of {{ $labels.job }} decides otherwise ({{ $labels.difference }})",
        "Look at what it finds before it takes over.",
    ),
    Alert(
        "GuardUpstreamFailing",
        f"sum by (job, kind) (rate({UPSTREAM_ERRORS.name}[5m])) > 0",
        "5m",
        "warning",
        "The server behind the guard of {{ $labels.job }} fails ({{ $labels.kind }})",
        "The guard is well; what it forwards to is unreachable, too slow, or breaks off.",
    ),
)

PANELS = (
    Panel(
        "Requests by outcome",
        f"sum by (job, outcome) (rate({REQUESTS.name}[$__rate_interval]))",
        "{{job}} {{outcome}}",
        "reqps",
    ),
    Panel(
        "Matches by trigger",
        f"sum by (job, trigger) (increase({MATCHES.name}[$__range]))",
        "{{job}} {{trigger}}",
        kind="table",
    ),
    Panel(
        "Scan time, median",
        "histogram_quantile(0.5, sum by (job, le) "
        f"(rate({SCAN_SECONDS.name}_bucket[$__rate_interval])))",
        "{{job}}",
        "s",
    ),
    Panel(
        "Scan time, 99th percentile",
        "histogram_quantile(0.99, sum by (job, le) "
        f"(rate({SCAN_SECONDS.name}_bucket[$__rate_interval])))",
        "{{job}}",
        "s",
    ),
    Panel(
        "Errors by kind",
        f"sum by (job, kind) (rate({ERRORS.name}[$__rate_interval]))",
        "{{job}} {{kind}}",
        "reqps",
    ),
    Panel(
        "Forwarded unscanned",
        f"sum by (job, outcome) (rate({UNSCANNED.name}[$__rate_interval]))",
        "{{job}} {{outcome}}",
        "reqps",
    ),
    Panel("In flight", f"sum by (job, front) ({IN_FLIGHT.name})", "{{job}} {{front}}"),
    Panel(
        "Banks that are served",
        f"count by (job, bank, model, triggers) ({BANK_INFO.name} == 1)",
        "{{job}} {{model}} {{triggers}} {{bank}}",
        kind="table",
    ),
    Panel(
        "Age of the bank",
        f"max by (job, bank) ((time() - {BANK_LOADED.name}) "
        f"and on (job, instance, bank) ({BANK_INFO.name} == 1))",
        "{{job}} {{bank}}",
        "s",
        "stat",
    ),
    Panel(
        "Reloads",
        f"sum by (job, outcome) (increase({RELOADS.name}[$__range]))",
        "{{job}} {{outcome}}",
        kind="stat",
    ),
    Panel(
        "Shadow bank",
        f"sum by (job, difference) (rate({SHADOW.name}[$__rate_interval]))",
        "{{job}} {{difference}}",
        "reqps",
    ),
    Panel(
        "Failures of the server behind the sidecar",
        f"sum by (job, kind) (rate({UPSTREAM_ERRORS.name}[$__rate_interval]))",
        "{{job}} {{kind}}",
        "reqps",
    ),
)


def write(directory: str | PathLike[str]) -> None:
    """Write ``guard.rules.yml`` and ``guard.dashboard.json`` into a directory of their own.

    Raises
    ------
    OutputExists
        The directory holds something else.
    """
    files = {RULES_FILE: rules(), DASHBOARD_FILE: dump_json(dashboard())}
    write_directory(Path(directory), files, owner=RULES_FILE)


def rules() -> bytes:
    """Return the alert rules as a rule file of Prometheus."""
    entries = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.description},
        }
        for alert in ALERTS
    ]
    group = {"groups": [{"name": "guard", "rules": entries}]}
    text = yaml.safe_dump(group, sort_keys=False, width=100)
    return f"# Written by guard alerts.\n{text}".encode()


def dashboard() -> dict[str, Json]:
    """Return the dashboard as Grafana imports it; it asks for the data source."""
    source: Json = {"type": "prometheus", "uid": "${datasource}"}
    panels: list[Json] = [
        {
            "id": number,
            "title": panel.title,
            "type": panel.kind,
            "datasource": source,
            "gridPos": {
                "h": 8,
                "w": 12,
                "x": 12 * ((number - 1) % 2),
                "y": 8 * ((number - 1) // 2),
            },
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "targets": [
                {
                    "refId": "A",
                    "datasource": source,
                    "expr": panel.expr,
                    "legendFormat": panel.legend,
                    "instant": panel.kind != "timeseries",
                    "range": panel.kind == "timeseries",
                }
            ],
        }
        for number, panel in enumerate(PANELS, 1)
    ]
    return {
        "title": "trigger-guard",
        "uid": "trigger-guard",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": panels,
    }
