"""Alert rules and the dashboard: they ask for what a router tells, and the rules fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.shadow import Candidacies, bundle_of, saying
from prometheus_client import generate_latest

from adaptf.serving.candidates import Candidates
from adaptf.serving.drift import Drift
from adaptf.serving.drift_metrics import DriftMetrics
from adaptf.serving.live import Follower
from adaptf.serving.router import DeviceRouter
from adaptf.serving.settings import Settings
from adaptf.serving.shadow import Shadow
from adaptf.serving.shadow_status import ShadowMetrics

FOLDER = Path(__file__).parents[2] / "docker"
RULES = FOLDER / "prometheus" / "alerts.yaml"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "adaptf_router.json"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    """Of the dashboard, with any device."""
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    told = [variable["query"]["query"] for variable in variables if variable["type"] == "query"]
    asked = [target["expr"].replace("$device", ".*") for panel in panels() for target in panel["targets"]]
    return asked + [re.fullmatch(r"label_values\((\w+), \w+\)", query)[1] for query in told]


@pytest.fixture
def told(candidacies: Candidacies) -> Iterator[set[str]]:
    """Names of all metrics of a router with everything that `serve` adds to it."""
    follower = Follower(bundle_of(unknown=saying("adaptf-unknown/1", "park")), check_seconds=10)
    follower.last_check = datetime.now(UTC)
    router, drift = DeviceRouter(), Drift(follower)
    router.start(follower, Settings())
    router.tell(drift.heard, DriftMetrics(drift))
    candidates = Candidates(follower, named=candidacies.candidates, download=candidacies.download)
    shadow = Shadow(follower, candidates, share=1.0, core_share=1.0)
    router.begin_shadow(shadow, ShadowMetrics(shadow))
    lines = re.findall(r"# TYPE (\w+) (\w+)", generate_latest(router.monitor.metrics).decode())
    yield {name for name, _ in lines} | {f"{name}_bucket" for name, kind in lines if kind == "histogram"}
    shadow.stop()


def test_rules_and_dashboard_ask_for_nothing_that_the_router_does_not_tell(told):
    asked = queries() + [rule["expr"] for rule in rules()]
    names = {name for expression in asked for name in re.findall(r"\badaptf_\w+", expression)}
    assert {"adaptf_drift_distance", "adaptf_requests_total"} <= names
    assert names - told == set()


def test_the_first_error_of_a_server_is_seen():
    """A counter that begins with its first error has not grown, as Prometheus sees it."""
    router = DeviceRouter()
    router.start(
        Follower(bundle_of(unknown=saying("adaptf-unknown/1", "park")), check_seconds=10), Settings()
    )
    assert router.monitor.metrics.get_sample_value("adaptf_requests_total", {"status": "error"}) == 0


def promtool(*arguments: str | Path) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_settings_and_the_rules():
    promtool("check", "config", FOLDER / "prometheus" / "prometheus.yaml")


def test_every_rule_fires_when_it_should_and_not_before():
    tests = FOLDER / "prometheus" / "alerts_test.yaml"
    tried = {
        one["alertname"]
        for test in yaml.safe_load(tests.read_text())["tests"]
        for one in test["alert_rule_test"]
        if one["exp_alerts"]
    }
    assert tried == {rule["alert"] for rule in rules()}
    promtool("test", "rules", tests)


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path):
    records = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    promtool("check", "rules", file)


def test_panels_of_the_dashboard_lie_beside_each_other():
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
                assert x < 24
