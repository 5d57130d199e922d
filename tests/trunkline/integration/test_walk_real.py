"""`walk --last N`: real events with the real rows of tables, by this version and by another one; nothing is written."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.integration.project import Project
from tests.trunkline.walk.desk import change, commit, git
from trunkline.event import Event, to_headers
from trunkline.kafka.control import Control

DOUBLED = """def doubled(order, rates):
    factor = rates[order.data["id"]]["number"] if order.data["id"] in rates else 1
    return order.having({**order.data, "number": factor * order.data["number"]})


def checked("""
ENRICHED = [
    ("from trunkline import Bus,", "from trunkline import Bus, Enrich, Table,"),
    ("def checked(", DOUBLED),
    ("Process(orders, [],", "Process(orders, [Enrich(doubled, rates)],"),
    ("bus = Bus(", 'rates = Table("PREFIX.rates", OrderV1, key="id")\nbus = Bus('),
]


@pytest.fixture
def project(bootstrap: str, tmp_path: Path) -> Project:
    made = Project(tmp_path, bootstrap)
    change(tmp_path, *((old, new.replace("PREFIX", made.prefix)) for old, new in ENRICHED))
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, "First")
    made("topics", "apply")
    return made


def test_real_events_and_rows_are_walked_by_both_versions(project: Project) -> None:
    topic = f"{project.prefix}.orders"
    source, at = f"{project.prefix}/till", datetime(2026, 7, 1, tzinfo=UTC)
    nothing = project.run("walk", topic, "--last", "3")
    assert (nothing.code, nothing.stdout, nothing.stderr) == (0, "", f"{topic} has no records.\n")
    for command, empty in ((("walk", topic), topic), (("walk",), "no topic that a source publishes to")):
        told = project(*command, "--diff", "HEAD", "--last", "3", code=2)
        assert told.startswith(f"trunkline: {empty} has ")
        assert "records: there is nothing to compare." in told
    with closing(project.sender):
        project.send(f"{project.prefix}.rates", project.value(3), ())
        for number in range(4):
            event: Event[Any] = Event(f"e{number}", at, {}, source=source, type="tests.Order.v1", key="k1")
            project.send(topic, project.value(number), to_headers(event))
        project.send(topic, b"junk", ())
        with Control(project.cluster) as control:
            ours = sorted(name for name in control.topics() if project.prefix in name)
            before = control.ends(ours)

        journey = project.json("walk", topic, "--last", "3")["journeys"]
        assert [name.partition(" ")[2] for name in journey] == ["0@2", "0@3", "0@4"]
        calls = [hop for one in journey.values() for hop in one.get("hops", ()) if hop["hop"] == "call"]
        assert [call["request"]["body"]["json"] for call in calls] == [{"number": 6}, {"number": 9}]
        assert "no Avro in Confluent wire format" in journey[f"{topic} 0@4"]["failed"]

        assert project("walk", "--diff", "HEAD", "--last", "10").splitlines()[-1] == (
            "nothing changes: 4 requests of 5 inputs are the same"
        )
        change(project.folder, ('json={"number": event.data["number"]}', 'json={"count": event.data["number"]}'))
        told = project("walk", topic, "--diff", "HEAD", "--last", "10", code=1)
        assert "and 3 more in the same places" in told
        assert f"{topic} 0@4 is walked by neither version: failed: the value is no Avro" in told
        assert told.splitlines()[-1] == "5 inputs; requests: 4 changed"
        with Control(project.cluster) as control:
            assert sorted(name for name in control.topics() if project.prefix in name) == ours
            assert control.ends(ours) == before
