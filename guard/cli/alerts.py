"""guard alerts: writes Prometheus alerts and a Grafana dashboard."""

from __future__ import annotations

import argparse
from pathlib import Path

from guard.cli.codes import CLEAN
from guard.cli.extras import extra

HELP = "write Prometheus alerts and a Grafana dashboard"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--out", type=Path, required=True, help="directory for the two files")


def run(options: argparse.Namespace) -> int:
    """Write both files."""
    with extra("writing YAML", "alerts"):
        from exporters import prometheus
    prometheus.write(options.out)
    print(f"alerts: {options.out / prometheus.RULES_FILE}")
    print(f"dashboard: {options.out / prometheus.DASHBOARD_FILE}")
    return CLEAN
