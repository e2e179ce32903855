"""docs/monitoring.md and deploy/prometheus: each fault moves a series and fires an alert, says Prometheus' own program.

The series that go into the rules are those that the handler itself shows.
"""

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from breakglass.base.findings import error
from breakglass.config.load import parse
from breakglass.server.condition import Condition
from breakglass.server.counters import Counters
from breakglass.server.exposition import Snapshot, render

from ..support.documents import commands, settings
from ..support.rendered import series
from ..support.rows import each_row
from ..unit.test_config import GOOD, no_files

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/breakglass.json"
DOCUMENT = ROOT / "docs/monitoring.md"
ALERT = '[[alerts]]\nsource = "generic"\nmatch = { a = "b" }\nvm = "devvm"\n'
CONFIG = parse(GOOD + ALERT, no_files)
NOW = datetime.fromtimestamp(0, UTC)  # when promtool's tests begin
DAY = 86400
LABELS = 'job="breakglass",instance="rescue:443"'
UP = f"up{{{LABELS}}}"

Change = Callable[[Snapshot], Snapshot]


def healthy() -> Snapshot:
    """Return what a handler knows if all is well."""
    caller = replace(CONFIG.callers[0], not_after=NOW + timedelta(days=100))
    config = replace(CONFIG, callers=(caller,))
    condition = Condition(config, NOW.timestamp(), {"pve1": "answering"}, {"devvm": "answering"}, "on")
    return Snapshot(condition, {"pve1": "1.2.3"}, {"pve1": NOW.timestamp()}, 0, Counters())


def with_condition(**changes: Any) -> Change:
    return lambda snapshot: replace(snapshot, condition=replace(snapshot.condition, **changes))


def host(state: str) -> Change:
    return with_condition(hosts={"pve1": state}, vms={"devvm": state})


def vm(state: str) -> Change:
    return with_condition(vms={"devvm": state})


def expiring(days: float) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        config = snapshot.condition.config
        caller = replace(config.callers[0], not_after=NOW + timedelta(days=days))
        return with_condition(config=replace(config, callers=(caller,)))(snapshot)

    return change


def problem(path: str, **changes: Any) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        config = replace(snapshot.condition.config, problems=(error(path, "setting", "is wrong", "fix it"),))
        return with_condition(config=config, **changes)(snapshot)

    return change


def counting(count: Callable[[Counters], None]) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        count(snapshot.counts)
        return snapshot

    return change


def turn(code: str) -> Change:
    return counting(lambda counts: counts.add_turn(code, {}, 0))


def request(path: str, outcome: str, *more: str, times: int = 1) -> Change:
    def count(counts: Counters) -> None:
        for _ in range(times):
            counts.add_request(path, outcome, *more)

    return counting(count)


HOST_STATES = "name-not-found connection-refused no-route timeout turned-away key-not-accepted host-key-differs lost "
HOST_STATES += "wrong-node agent-silent read-only-key agent-outdated"
CHAT_STATES = "chat-not-isolated disabled failed claude-missing sandbox-missing sessions-unwritable"
# What can go wrong, by the first cell of the document's table of faults, which names its series and its alert.
FAULTS: dict[str, Change] = {
    **{state: host(state) for state in HOST_STATES.split()},
    "not-allowed": vm("not-allowed"),
    "elsewhere": vm("elsewhere"),
    "a host is disabled": problem("hosts.pve1.key", hosts={"pve1": "disabled"}, vms={"devvm": "disabled"}),
    "a VM is disabled": problem("vms.devvm.vmid", vms={"devvm": "disabled"}),
    "another part is disabled": problem("callers.anna.secret"),
    "not proven for long": lambda snapshot: replace(snapshot, proven={"pve1": NOW.timestamp() - 36 * DAY}),
    "a reload was rejected": with_condition(rejected_since=NOW.timestamp() + 1),
    "a key has expired": expiring(-1),
    "a key expires": expiring(13),
    **{state: with_condition(chat=state) for state in CHAT_STATES.split()},
    "a turn failed": turn("claude-auth"),
    "a notification failed": request("/alert/generic", "unreached"),
    "a sender is not known": request("/alert/generic", "unauthorized", times=5),
    "alerts match nothing": request("/alert/generic", "ignored"),
    "a request for another handler": request("/pve", "wrong-handler"),
    "a key that no caller has": request("/pve", "unauthorized"),
    "a request that its caller may not send": request("/pve", "forbidden", "operator"),
    "a verb failed": request("/pve", "unreached", "operator", "status"),
    "a warning of the configuration": lambda snapshot: with_condition(
        config=replace(snapshot.condition.config, warnings=(error("hosts.pve1", "any", "any", "pin it"),))
    )(snapshot),
    "the clock is wrong": with_condition(at=NOW.timestamp() + 200),
}


STILL_READY = (  # works now, and may not later; or a part of it failed once
    *("agent-outdated", "not proven for long", "the clock is wrong", "a turn failed"),
    *("a notification failed", "a sender is not known", "alerts match nothing", "a request for another handler"),
    *("a key that no caller has", "a request that its caller may not send", "a verb failed"),
    "a warning of the configuration",
)


def text_of(snapshot: Snapshot) -> str:
    return render(snapshot, "")[0].decode()


@cache
def table() -> list[list[str]]:
    """Return the cells of each row of the document's table of faults."""
    text = DOCUMENT.read_text("utf-8").partition("| fault | doctor | series | alert |\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[1:]]


def rows() -> dict[str, tuple[list[str], str]]:
    """Return the series and the alert of each row."""
    found = {}
    for faults, _, names, alert in table():
        for fault in re.findall(r"`([^`]+)`", faults) or [faults]:
            found[fault] = (re.findall(r"`([^`]+)`", names), alert.strip("`"))
    return found


@each_row("fault", FAULTS)
def test_a_fault_moves_its_series(fault: str) -> None:
    """Each series that the row names is another one than on a good day."""
    before, after = series(text_of(healthy())), series(text_of(FAULTS[fault](healthy())))
    moved = {name.partition("{")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    names, _ = rows()[fault]
    assert names
    assert set(names) <= moved
    assert ("ready" in moved) is (fault not in STILL_READY)


# --- the rules ---


def lines_of(before: str, after: str) -> list[dict[str, str]]:
    """Return promtool's input: for ten minutes the first text, then the second one, each as two targets show it."""
    old, new = _samples(before), _samples(after)
    found = []
    for name in old.keys() | new.keys():
        first, then = (f"{value:g}" if value is not None else "_" for value in (old.get(name), new.get(name)))
        if name.startswith("breakglass_time_seconds"):  # as a clock does
            first, then = f"{first}+60", f"{new.get(name, 0) + 660:g}+60"
        found.append({"series": name, "values": f"{first}x10 {then}x170"})
    return found


def used_series() -> set[str]:
    """Return the names of the series in the rules and the dashboard."""
    return set(re.findall(r"\bbreakglass_\w+", RULES.read_text("utf-8") + DASHBOARD.read_text("utf-8")))


def _samples(text: str) -> dict[str, float]:
    found, used = {}, used_series()
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        bare, _, labels = name.partition("{")
        if bare in used:
            found[f"{bare}{{{labels.rstrip('}')}{',' if labels else ''}{LABELS}}}"] = float(value)
    return found


def case(after: str, firing: Sequence[str], up: str = "1x190", at: str = "2h") -> dict[str, Any]:
    """Return a test of promtool: which alerts fire two hours after a good day, and whether they say their names."""
    inputs = [*lines_of(text_of(healthy()), after), {"series": UP, "values": up}]
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    query = 'count by (alertname) (ALERTS{alertstate="firing"})'
    expected = {"expr": query, "eval_time": at, "exp_samples": samples}
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": [expected]}


def promtool(directory: Path, cases: list[dict[str, Any]]) -> None:
    """Have promtool run tests of the rules. YAML has JSON in it."""
    file = directory / "tests.json"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}))
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.real("promtool")
def test_the_rules_are_good(tmp_path: Path) -> None:
    """Prometheus' own check and lint accept them, in the document's prometheus.yml. They use series that there are."""
    [_, example] = settings("docs/monitoring.md", "Setting up Prometheus")
    (tmp_path / "prometheus.yml").write_text(example.replace("/etc/prometheus/", ""))
    (tmp_path / "breakglass-alerts.yml").write_text(RULES.read_text("utf-8"))
    (tmp_path / "breakglass.token").write_text("bgt_x")
    command = ["promtool", "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "breakglass-alerts.yml" in ran.stdout
    names = {line.split(" ")[2] for line in text_of(healthy()).splitlines() if line.startswith("# TYPE")}
    assert (used_series() - names, len(used_series()) > 15) == (set(), True)


# --- the dashboard ---

VARIABLES = {"$instance": "rescue.*", "$__rate_interval": "5m", "$__range": "1h"}  # as Grafana replaces them


def query_of(target: Mapping[str, Any]) -> str:
    query = str(target["expr"])
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def a_bad_day(snapshot: Snapshot) -> Snapshot:
    """Return a handler of which each query of the dashboard shows something."""
    counts = snapshot.counts
    for verb, outcome in (("cycle", "done"), ("status", "unreached")):
        counts.add_request("/pve", outcome, "operator", verb)
    counts.add_request("/alert/generic", "accepted")
    counts.add_captures("generic", 1, 0, 0)
    counts.add_notification("ntfy", is_sent=False)
    counts.add_turn("claude-auth", {}, 0.25)
    return host("agent-silent")(snapshot)


@pytest.mark.real("promtool")
def test_each_query_of_the_dashboard_answers(tmp_path: Path) -> None:
    """Prometheus parses each query. On a bad day, each shows a series with the labels that its legend names."""
    queries = []
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    for target in (target for panel in panels for target in panel["targets"]):
        query = query_of(target)
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            query = f'label_replace({query}, "missing", "{label}", "{label}", "")'
        queries.append(f"count by (missing) ({query}) > bool 0")
    at = {"eval_time": "12m", "exp_samples": [{"labels": "{}", "value": 1}]}
    tests = [{"expr": f"{query} > bool 0", **at} for query in queries]
    lines = lines_of(text_of(healthy()), text_of(a_bad_day(healthy())))
    promtool(tmp_path, [{"interval": "1m", "input_series": lines, "promql_expr_test": tests}])


@pytest.mark.all
@pytest.mark.real("promtool")
def test_each_fault_fires_its_alert_and_no_other(tmp_path: Path) -> None:
    """Prometheus' own program reads the handler's own series; a good day fires nothing."""
    alerts = {alert for _, alert in rows().values()} - {""}
    cases = [case(text_of(healthy()), [])]
    for fault, change in FAULTS.items():
        _, alert = rows()[fault]
        also = ["BreakglassConfigDegraded"] if fault in ("a host is disabled", "a VM is disabled") else []
        firing = [name for name in (alert, *also) if name]
        at = "25m" if alert in ("BreakglassTurnsFail", "BreakglassAlertsFail", "BreakglassAlertsUnauthorized") else "2h"
        cases.append(case(text_of(change(healthy())), firing, at=at))
    cases.append(case("", ["BreakglassHandlerDown"], up="1x10 0x170"))
    cases.append(case("", ["BreakglassHandlerAbsent"], up="1x10 stale"))
    promtool(tmp_path, cases)
    known = set(re.findall(r"- alert: (\w+)", RULES.read_text("utf-8")))
    assert known == alerts | {"BreakglassHandlerDown", "BreakglassHandlerAbsent"}


@pytest.mark.real("root")
def test_the_documents_token_is_good(tmp_path: Path) -> None:
    """Its commands make a file that a handler takes for [metrics], as the document writes it."""
    [make] = commands("docs/monitoring.md", "Setting up Prometheus")
    [table, _] = settings("docs/monitoring.md", "Setting up Prometheus")
    script = make.replace("/etc/breakglass", str(tmp_path)).replace("root:breakglass", "root:root")
    assert script.count(str(tmp_path)) == script.count("root:root") == 1
    subprocess.run(["bash", "-euc", script], check=True)
    file = tmp_path / "metrics.token"
    assert file.stat().st_mode & 0o777 == 0o640
    config = parse(GOOD + table, {"/etc/breakglass/metrics.token": file.read_text()}.__getitem__)
    assert (len(config.metrics), config.problems) == (1, ())
