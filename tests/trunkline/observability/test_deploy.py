"""What is deployed beside a bus: rules that fire when they should, a dashboard whose every metric exists.

Prometheus and promtool come from Debian's package `prometheus`. Where they are missing these tests are skipped by name,
and fail where REQUIRE_SERVERS is set.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.shared import free_port
from tests.trunkline.observability.buses import traced_bus
from tests.trunkline.observability.figures import Figures, figures
from tests.trunkline.observability.hearing import Witness, post, replay
from tests.trunkline.servers import not_here
from tests.trunkline.support import ROOT, Stage, note, wait_for

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
BOARD = DEPLOY / "grafana" / "dashboards" / "trunkline.json"
CASES = sorted((Path(__file__).parent / "rules").glob("*.yml"))
ELSEWHERE = {"trunkline_certificate_end_timestamp_seconds"}
"""There where a bus has certificates: integration/test_secured.py looks for it."""
METRIC = re.compile(r"\btrunkline_[a-z_]+")


def tool(name: str) -> str:
    """Find a program of Prometheus."""
    if (found := shutil.which(name)) is None:
        not_here(f"{name} is not installed: apt-get install prometheus")
    return found


def promtool(*arguments: str) -> None:
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> dict[str, dict[str, str]]:
    """Give the fields of every alert: the file is written in one way, so that this suffices to read it."""
    found = {}
    for block in RULES.read_text().split("- alert: ")[1:]:
        expr = re.search(r"expr: \|?(.*?)\n        (?:for|labels):", block, re.DOTALL)
        assert expr is not None
        fields = dict(re.findall(r"^ +(severity|summary|runbook_url|dashboard_url): \"?(.*?)\"?$", block, re.MULTILINE))
        found[block.split("\n", 1)[0]] = {**fields, "expr": expr[1]}
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Give every query of the rules and of the dashboard by who asks it."""
    asked = {f"alert {name}": rule["expr"] for name, rule in rules().items()}
    return asked | {f"panel {panel['title']}": target["expr"] for panel in panels() for target in panel["targets"]}


@contextmanager
def prometheus(folder: Path, worker: str) -> Iterator[str]:
    """Run Prometheus with the configuration that is shipped, but for the address of the worker and its rhythm."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    for old, new in (("127.0.0.1:8701", worker.removeprefix("http://")), ("5s", "200ms"), ("rules.yml", str(RULES))):
        assert old in text
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    port = free_port()
    command = [
        tool("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def ask(server: str, query: str) -> list[Any]:
    """Ask Prometheus; nothing while it starts."""
    try:
        answer = httpx.get(f"{server}/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    found: list[Any] = answer.raise_for_status().json()["data"]["result"]
    return found


def test_the_rules_and_the_configuration_are_sound() -> None:
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_rules_fire_when_they_should(case: Path) -> None:
    promtool("test", "rules", str(case))


def test_every_alert_fires_in_one_of_the_cases() -> None:
    fires = {
        name
        for case in CASES
        for name, then in re.findall(r"alertname: (\w+)[^\n]*\n(?:\s+#[^\n]*\n)*(.*)", case.read_text())
        if "exp_alerts:" in then
    }
    assert fires == rules().keys()


def test_every_alert_says_what_is_the_matter_and_what_helps() -> None:
    manual = (ROOT / "docs" / "operating.md").read_text()
    for name, rule in rules().items():
        assert rule["summary"].endswith("."), name
        assert rule["severity"] in ("page", "ticket")
        file, _, section = rule["runbook_url"].partition("#")
        assert file == "docs/operating.md"
        assert re.search(rf"^### {section}$", manual, re.MULTILINE | re.IGNORECASE), f"{name} has no section"
        assert rule["dashboard_url"].startswith("/d/trunkline")


def test_the_dashboard_is_what_its_source_says_and_every_panel_says_what_it_shows() -> None:
    written = subprocess.run([sys.executable, DEPLOY / "grafana" / "dashboard.py"], capture_output=True, check=True)
    assert written.stdout.decode() == BOARD.read_text()
    assert all(len(panel["description"]) > 20 for panel in panels())
    rows = [panel["title"] for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] == "row"]
    assert rows == ["Fresh?", "Delivering?", "Failing?", "Flowing?", "Targets well?"]


def test_every_metric_that_is_queried_or_described_is_there_on_a_running_bus_and_prometheus_reads_it(
    stage: Stage, heard: Witness, tmp_path: Path
) -> None:
    """Of these events one is delivered, and comes again, one dies, one dies and is replayed, one waits."""
    bus = stage.make(traced_bus(stage.prefix))
    flow = f"{stage.prefix}.marks.shelf"
    often = {"trunkline.engine.survey.SELDOM": 1.0, "trunkline.engine.survey.EVERY": 0.5}
    with stage.child("tests.trunkline.observability.buses:traced_bus", constants=often) as child:
        for data in (note(1), note(2, "refused"), note(3, "late", "unsayable"), note(4, "later")):
            assert post(child.url, data).status_code == 202
        wait_for(lambda: len(stage.letters(flow)) == 2, why=lambda: child.log)
        heard.forgive()
        replay(stage, flow, "refused")
        first = next(record for record in stage.read(bus.topics[1].name) if record.key == b"a")
        stage.send([(first.topic, first.key, first.value, tuple(first.headers), first.partition)])
        wait_for(lambda: not missing(figures(child.url)), why=lambda: missing(figures(child.url)))
        manual = {name: labels for name, labels in described().items() if name not in ELSEWHERE}
        wait_for(lambda: shown(child.url).keys() >= manual.keys(), why=lambda: manual.keys() - shown(child.url).keys())
        assert shown(child.url) == manual
        with prometheus(tmp_path, child.url) as server:
            wait_for(lambda: ask(server, 'up{job="trunkline"} == 1'))
            for query in queries().values():
                ask(server, chosen(query))  # whatever it finds, it is understood
            found = ask(server, 'trunkline_sink_events_total{outcome="delivered"}')
            assert [(one["metric"]["flow"], one["value"][1]) for one in found] == [(flow, "2")]
            [lag] = ask(server, chosen(by_title()["Records behind"]))[:1]
            assert lag["metric"]["flow"].startswith(stage.prefix)
            assert ask(server, 'ALERTS{alertstate="firing"}') == []


def described() -> dict[str, set[str]]:
    """Give the labels of every metric that the manual has a row for."""
    rows = re.findall(r"^\| (`trunkline_.*?) \|", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE)
    return {
        name: set(labels.split(", ")) if labels else set()
        for row in rows
        for name, labels in re.findall(r"`(trunkline_[a-z_]+)(?:\{(.*?)\})?`", row)
    }


def shown(url: str) -> dict[str, set[str]]:
    """Give the labels of every metric of the worker at an address."""
    samples = figures(url).samples
    return {base(name): labels.keys() - {"le"} for name, labels, _ in samples if METRIC.fullmatch(name)}


def chosen(query: str) -> str:
    """Give a query as the dashboard asks it when nothing is chosen."""
    query = query.replace("$__rate_interval", "1m")
    return re.sub(r"\$(flow|source|target)", ".*", query)


def by_title() -> dict[str, str]:
    return {panel["title"]: panel["targets"][0]["expr"] for panel in panels()}


def missing(found: Figures) -> set[str]:
    """Name what is queried and not there."""
    asked = {name for query in queries().values() for name in METRIC.findall(query)}
    return asked - found.names - ELSEWHERE


def base(name: str) -> str:
    """Give the name of a metric without what Prometheus adds to a histogram's."""
    return re.sub(r"_(bucket|count|sum)$", "", name)
