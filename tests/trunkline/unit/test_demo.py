"""The demo's report: what balances, how a difference is named, what the last screen looks like."""

import asyncio
import json
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import SecretStr
from typer.testing import CliRunner

from tests.shared import free_port
from trunkline import ApiKey, Bus, Deliver, Event, Process, Publish, Secret, Target, Topic, env
from trunkline.cli import demo as command
from trunkline.dev.demo import place, posting, scenario, targets, worker
from trunkline.dev.demo.judge import Evidence, judge
from trunkline.dev.demo.report import Report, with_replay
from trunkline.dev.demo.scenario import Fact
from trunkline.dev.demo.screen import Story, screen, told
from trunkline.dev.demo.witness import Api, Effect, Metrics, Seen
from trunkline.errors import UsageError
from trunkline.settings import Gateway, Kafka, Ledger, Settings
from trunkline.sinks import HttpSink
from trunkline.webhooks import WebhookRequest

# A bus of two hops and two sinks: each order gives a parcel for each of its items, and a letter.


@dataclass
class Desk:
    name: str = "desk"
    verify: Any = None

    def events(self, request: WebhookRequest) -> list[Event[Any]]:
        raise NotImplementedError


class Carrier(HttpSink):
    name = "carrier"


class Writer(HttpSink):
    name = "writer"


class Haulier(Carrier):
    """The carrier, renamed."""

    name = "haulier"
    was = "carrier"


def parcels(_order: Event[Any]) -> list[Any]:
    return []


def letters(_order: Event[Any]) -> list[Any]:
    return []


ORDERS = Topic("t.orders", dict, key="order")
PARCELS = Topic("t.parcels", dict, key="item")
LETTERS = Topic("t.letters", dict, key="order")
DEPOT = Target("depot", env("DEPOT_URL"), auth=ApiKey(Secret("DEPOT_KEY")))
POST = Target("post", env("POST_URL"))
BUS = Bus(
    "t",
    [
        Publish(Desk(), to=ORDERS),
        Process(ORDERS, [], to={PARCELS: parcels, LETTERS: letters}, name="t.orders.split"),
        Deliver(PARCELS, to=Carrier(DEPOT)),
        Deliver(LETTERS, to=Writer(POST)),
    ],
)


RENAMED = Bus(
    "u",
    [
        Publish(Desk("counter"), to=ORDERS, was="desk"),
        Process(ORDERS, [], to={PARCELS: parcels, LETTERS: letters}, name="split", was="t.orders.split"),
        Deliver(PARCELS, to=Haulier(DEPOT), name="haul", was="t.parcels.carrier"),
        Deliver(LETTERS, to=Writer(POST)),
    ],
    was="t",
)
NEW_NAMES = {
    "desk": "counter",
    "t.orders.split": "split",
    "carrier": "haulier",
    "t.parcels.carrier": "haul",
}


@dataclass(frozen=True)
class Expected:
    input: Mapping[str, int]
    outcomes: Mapping[str, Mapping[str, int]]
    facts: Mapping[str, Sequence[Fact]]


@dataclass(frozen=True)
class Incident:
    sink: str = "carrier"
    match: str = "/parcels/b/*"
    status: int = 422
    detail: str = "No more b."
    events: int = 1

    def strikes(self, fact: Fact) -> bool:
        return fact[1] == "b"


@dataclass(frozen=True)
class Play:
    source: str = "desk"
    incident: Incident = field(default_factory=Incident)

    def requests(self, first: int, count: int) -> Iterator[Mapping[str, Any]]:
        return iter([{"order": f"{number}"} for number in range(first, first + count)])

    def following(self, _number: int, _body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return iter(())

    def rows(self) -> Mapping[str, list[Mapping[str, Any]]]:
        return {}

    def expected(self, count: int) -> Expected:
        orders = [("1",), ("2",), ("3",), ("4",)][:count]
        items = [("1", "a"), ("1", "b"), ("2", "b")]
        return Expected(
            {"orders": count, "odd": 1},
            {"t.orders.split": {"routed": 2, "filtered": 1, "unrouted": 1}},
            {"t.orders": orders, "t.parcels": items[: 2 if count < 4 else 3], "t.letters": [("1",)]},
        )

    def fact(self, topic: str, data: Mapping[str, Any]) -> Fact:
        return (data["order"], data["item"]) if topic == "t.parcels" else (data["order"],)

    def asked(self, _sink: str, event: str, data: Mapping[str, Any]) -> Fact:
        return (event, data["order"])

    def got(self, _sink: str, path: str, body: str) -> Fact:
        return (path.rpartition("/")[2], json.loads(body)["order"])


def seen(identity: str, source: str, offset: int, at: float = 0.0, **data: Any) -> Seen:
    return Seen(identity, source, 0, offset, at, data)


def effect(identity: str, order: str, at: float) -> Effect:
    return Effect(f"/parcels/{identity}", json.dumps({"order": order}), at, 1)


Samples = dict[str, tuple[tuple[Mapping[str, str], float], ...]]


def samples() -> Samples:
    source, flow = {"source": "desk"}, {"flow": "t.orders.split"}
    carrier = {"flow": "t.parcels.carrier", "sink": "carrier"}
    writer = {"flow": "t.letters.writer", "sink": "writer"}
    outcomes = {"read": 4, "routed": 2, "filtered": 1, "unrouted": 1, "dead": 0}
    return {
        "trunkline_source_events_total": (
            ({**source, "outcome": "received"}, 4.0),
            ({**source, "outcome": "published"}, 4.0),
            ({**source, "outcome": "rejected"}, 0.0),
            ({**source, "outcome": "duplicate"}, 0.0),
        ),
        "trunkline_process_events_total": tuple(
            ({**flow, "outcome": outcome}, float(count)) for outcome, count in outcomes.items()
        ),
        "trunkline_process_emitted_total": (
            ({**flow, "topic": "t.parcels"}, 3.0),
            ({**flow, "topic": "t.letters"}, 1.0),
        ),
        "trunkline_sink_events_total": (
            ({**carrier, "outcome": "read"}, 3.0),
            ({**carrier, "outcome": "delivered"}, 3.0),
            ({**carrier, "outcome": "dead"}, 0.0),
            ({**writer, "outcome": "read"}, 1.0),
            ({**writer, "outcome": "delivered"}, 1.0),
        ),
        "trunkline_delivery_attempts_total": (
            ({**carrier, "status_class": "2xx"}, 3.0),
            ({**writer, "status_class": "2xx"}, 1.0),
        ),
    }


@pytest.fixture
def evidence() -> Evidence:
    """Everything went well: four orders, three parcels, one letter."""
    topics = {
        "t.orders": [seen(f"{n}", "t/desk", n - 1, at=100.0 + n, order=f"{n}") for n in (1, 2, 3, 4)],
        "t.parcels": [
            seen("p1", "t/t.orders.split", 0, order="1", item="a"),
            seen("p2", "t/t.orders.split", 1, order="1", item="b"),
            seen("p3", "t/t.orders.split", 2, order="2", item="b"),
        ],
        "t.letters": [seen("l1", "t/t.orders.split", 0, order="1")],
    }
    flows = ("t.orders.split", "t.parcels.carrier", "t.letters.writer")
    empty: dict[str, list[Seen]] = {f"{flow}.{kind}": [] for flow in flows for kind in ("dlq", "replay")}
    return Evidence(
        expected=Play().expected(4),
        refused=[],
        answers={"desk": {"published": 4}},
        records={**topics, **empty},
        committed={
            "t.orders.split": {("t.orders", 0): 4},
            "t.parcels.carrier": {("t.parcels", 0): 3},
            "t.letters.writer": {("t.letters", 0): 1},
        },
        apis={
            "carrier": Api(3, (effect("p1", "1", 101.01), effect("p2", "1", 101.02), effect("p3", "2", 102.04))),
            "writer": Api(1, (effect("l1", "1", 101.5),)),
        },
        metrics=Metrics(samples()),
        ledger={"carrier": {"done": 3}, "writer": {"done": 1}},
    )


def differences(evidence: Evidence) -> list[str]:
    return judge(BUS, Play(), evidence).differences


def renamed(names: Mapping[str, Any]) -> dict[str, Any]:
    return {NEW_NAMES.get(name, name): value for name, value in names.items()}


def test_a_renamed_bus_balances_under_its_new_names(evidence: Evidence) -> None:
    told = {
        name: tuple(
            ({label: NEW_NAMES.get(value, value) for label, value in labels.items()}, count) for labels, count in found
        )
        for name, found in evidence.metrics.samples.items()
    }
    expected = replace(Play().expected(4), outcomes=renamed(Play().expected(4).outcomes))
    known_by_former_names = evidence.records
    report = judge(
        RENAMED,
        replace(Play(), source="counter", incident=Incident("haulier")),
        replace(
            evidence,
            expected=expected,
            records=known_by_former_names,
            committed=renamed(evidence.committed),
            answers=renamed(evidence.answers),
            apis=renamed(evidence.apis),
            metrics=Metrics(told),
            ledger=renamed(evidence.ledger),
        ),
    )
    assert report.differences == []
    assert (list(report.sources), list(report.flows), list(report.sinks)) == (
        ["counter"],
        ["split"],
        ["haulier", "writer"],
    )


def test_a_run_where_everybody_agrees_balances(evidence: Evidence) -> None:
    report = judge(BUS, Play(), evidence)
    assert report.differences == []
    zero = ("dead", "parked", "ambiguous", "superseded", "discarded", "expired", "in_flight", "duplicates", "lost")
    counted = ("read", "delivered", "attempts", "effects")
    assert report.as_data() == {
        "input": {"orders": 4, "odd": 1},
        "sources": {"desk": {"received": 4, "published": 4, "rejected": 0, "duplicate": 0}},
        "flows": {
            "t.orders.split": {
                "read": 4,
                "routed": 2,
                "emitted": {"t.parcels": 3, "t.letters": 1},
                "filtered": 1,
                "unrouted": 1,
                "dead": 0,
                "in_flight": 0,
            }
        },
        "sinks": {
            "carrier": {**dict.fromkeys(counted, 3), **dict.fromkeys(zero, 0)},
            "writer": {**dict.fromkeys(counted, 1), **dict.fromkeys(zero, 0)},
        },
        "latency_ms": {"p50": 20.0, "p99": 500.0},
        "balanced": True,
        "differences": [],
    }


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, found in samples().items() for place in range(len(found))]
)
def test_every_number_of_the_metrics_is_compared(evidence: Evidence, name: str, place: int) -> None:
    planted = samples()
    changed = list(planted[name])
    labels, value = changed[place]
    changed[place] = (labels, value + 1)
    planted[name] = tuple(changed)
    found = differences(replace(evidence, metrics=Metrics(planted)))
    assert found
    hop = labels.get("flow") or labels["source"]
    assert all(difference.startswith(f"{hop}, ") for difference in found)
    assert f"{value + 1:.0f} by the bus's metrics" in found[0]


def without(name: str, place: int) -> Callable[[Evidence], Evidence]:
    def change(evidence: Evidence) -> Evidence:
        left = [record for number, record in enumerate(evidence.records[name]) if number != place]
        return replace(evidence, records={**evidence.records, name: left})

    return change


def with_record(name: str, record: Seen) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, records={**evidence.records, name: [*evidence.records[name], record]})


def with_effects(*effects: Effect, attempts: int = 3) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, apis={**evidence.apis, "carrier": Api(attempts, effects)})


GOOD = (effect("p1", "1", 101.01), effect("p2", "1", 101.02), effect("p3", "2", 102.04))


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (
            lambda e: replace(e, answers={"desk": {"published": 3, "rejected": 1}}),
            "desk, rejected: 1 by the sender, 0 by the bus's metrics",
        ),
        (
            lambda e: replace(e, answers={"desk": {"published": 3, "unanswered": 1}}),
            "desk, left without an answer: 0 by the promise, 1 by the sender",
        ),
        (
            lambda e: replace(e, answers={"desk": {"published": 4, "duplicate": 1}}),
            "desk, duplicate: 1 by the sender, 0 by the bus's metrics",
        ),
        (
            without("t.orders", 3),
            "desk, published: 4 by the input file, 3 by the topics, 4 by the sender, 4 by the bus's metrics",
        ),
        (
            with_record("t.orders", seen("4", "t/desk", 4, order="4")),
            "desk, on t.orders twice: 0 by the promise, 1 by the topics",
        ),
        (
            lambda e: replace(e, committed={**e.committed, "t.orders.split": {("t.orders", 0): 3}}),
            "t.orders.split, in flight: 0 by the promise, 1 by the topics",
        ),
        (
            without("t.parcels", 1),
            "t.orders.split, emitted to t.parcels: 3 by the input file, 2 by the topics, 3 by the bus's metrics",
        ),
        (
            with_record("t.parcels", seen("p9", "t/t.orders.split", 3, order="3", item="z")),
            "t.orders.split, on t.parcels but not from the input: 0 by the promise, 1 by the topics",
        ),
        (
            lambda e: replace(e, expected=replace(e.expected, outcomes={"t.orders.split": {"routed": 2}})),
            "t.orders.split, filtered: 0 by the input file, 1 by the bus's metrics",
        ),
        (
            with_record("t.orders.split.dlq", seen("3", "t/desk", 0)),
            "t.orders.split, dead: 0 by the promise, 1 by the topics, 0 by the bus's metrics",
        ),
        (with_effects(*GOOD[:2]), "t.parcels.carrier, lost: 0 by the promise, 1 by the target"),
        (
            with_effects(*GOOD[:2], replace(GOOD[2], times=2)),
            "t.parcels.carrier, duplicate effects: 0 by the promise, 1 by the target",
        ),
        (
            with_effects(*GOOD, effect("p3", "2", 103.0)),
            "t.parcels.carrier, duplicate effects: 0 by the promise, 1 by the target",
        ),
        (
            with_effects(*GOOD, effect("p7", "7", 103.0)),
            "t.parcels.carrier, effects: 4 by the target, 3 by the topics",
        ),
        (
            with_effects(GOOD[0], GOOD[1], effect("p3", "9", 102.0)),
            "t.parcels.carrier, lost: 0 by the promise, 1 by the target",
        ),
        (
            with_effects(*GOOD, attempts=4),
            "t.parcels.carrier, attempts: 4 by the target, 3 by the bus's metrics",
        ),
        (
            lambda e: replace(e, ledger={**e.ledger, "carrier": {"done": 2, "dead": 1}}),
            "t.parcels.carrier, dead: 0 by the input file, 0 by the topics, 1 by the bus's ledger",
        ),
        (
            lambda e: replace(e, refused=[("2", "b")]),
            "t.parcels.carrier, dead, or not, against the input: 0 by the promise, 1 by the topics",
        ),
        (
            lambda e: with_effects(*GOOD[:2])(
                replace(e, committed={**e.committed, "t.parcels.carrier": {("t.parcels", 0): 2}})
            ),
            "t.parcels.carrier, in flight: 0 by the promise, 1 by the topics",
        ),
    ],
)
def test_a_planted_difference_is_named(evidence: Evidence, plant: Callable[[Evidence], Evidence], said: str) -> None:
    report = judge(BUS, Play(), plant(evidence))
    assert said in report.differences
    assert not report.balanced
    assert report.as_data()["differences"] == report.differences


def broken(evidence: Evidence) -> Evidence:
    """Show what everybody saw while the depot refused the second order's parcel."""
    planted = samples()
    carrier = {"flow": "t.parcels.carrier", "sink": "carrier"}
    events = list(planted["trunkline_sink_events_total"])
    events[1], events[2] = ({**carrier, "outcome": "delivered"}, 2.0), ({**carrier, "outcome": "dead"}, 1.0)
    letter = seen("p3", "t/t.orders.split", 0, order="2", item="b")
    return replace(
        evidence,
        refused=[("2", "b")],
        records={**evidence.records, "t.parcels.carrier.dlq": [letter]},
        apis={**evidence.apis, "carrier": Api(3, GOOD[:2])},
        metrics=Metrics({**planted, "trunkline_sink_events_total": tuple(events)}),
        ledger={**evidence.ledger, "carrier": {"done": 2, "dead": 1}},
    )


def replayed(evidence: Evidence) -> Evidence:
    """Show what everybody saw after the replay."""
    planted = samples()
    carrier = {"flow": "t.parcels.carrier", "sink": "carrier"}
    events = list(planted["trunkline_sink_events_total"])
    events[0], events[2] = ({**carrier, "outcome": "read"}, 4.0), ({**carrier, "outcome": "dead"}, 1.0)
    attempts = (
        ({**carrier, "status_class": "2xx"}, 3.0),
        ({**carrier, "status_class": "4xx"}, 1.0),
        planted["trunkline_delivery_attempts_total"][1],
    )
    again = seen("p3", "t/t.orders.split", 0, order="2", item="b")
    return replace(
        evidence,
        records={**evidence.records, "t.parcels.carrier.dlq": [again], "t.parcels.carrier.replay": [again]},
        apis={**evidence.apis, "carrier": Api(4, GOOD)},
        metrics=Metrics(
            {
                **planted,
                "trunkline_sink_events_total": tuple(events),
                "trunkline_delivery_attempts_total": attempts,
            }
        ),
    )


def second(evidence: Evidence, *, dead: int = 1, letters_meanwhile: int = 0) -> Report:
    before, after = broken(evidence), replayed(evidence)
    apis = {**before.apis, "writer": Api(1 - letters_meanwhile, before.apis["writer"].effects)}
    while_broken, last = judge(BUS, Play(), before), judge(BUS, Play(), after)
    return with_replay(last, while_broken, "carrier", dead, apis, after.apis)


def test_a_dead_letter_and_its_replay_balance(evidence: Evidence) -> None:
    report = second(evidence)
    assert report.differences == []
    assert report.as_data()["replay"] == {
        "sink": "carrier",
        "dead": 1,
        "delivered": 1,
        "still_dead": 0,
        "calls_elsewhere": {"writer": 0},
    }
    assert len(report.milliseconds) == 3, "a dead letter says nothing about latency"


def test_a_replay_that_reaches_another_sink_is_named(evidence: Evidence) -> None:
    found = second(evidence, letters_meanwhile=1).differences
    assert found == ["replay, calls of writer: 0 by the promise, 1 by the target"]


def test_other_deaths_than_those_of_the_input_are_named(evidence: Evidence) -> None:
    assert second(evidence, dead=2).differences == [
        "replay, dead before: 2 by the input file, 1 by the topics",
        "replay, effects at carrier: 2 by the input file, 1 by the target",
    ]


def story(**more: Any) -> Story:
    told: dict[str, Any] = {
        "incident": "carrier refused 1 of 1 more events: No more b.",
        "rate": 100.0,
        "first_seconds": 12.34,
        "seconds": 56.78,
        "folder": "build/demo",
        "stays": True,
        "commands": [("trunkline demo break carrier", "break it"), ("trunkline dlq show carrier", "see why")],
    }
    return Story(**told | more)


def test_the_last_screen(evidence: Evidence) -> None:
    assert "\n".join(screen(told(judge(BUS, Play(), evidence), second(evidence), story()))) == (
        """\
Act one: 4 events
✓ desk → t.orders         4 received = 4 published
✓ t.orders → split        4 read = 2 routed + 1 filtered + 1 unrouted
✓ split → t.parcels       3 emitted
✓ split → t.letters       1 emitted
✓ t.parcels → carrier     3 read = 3 delivered
✓ t.letters → writer      1 read = 1 delivered

Act two: carrier refused 1 of 1 more events: No more b.
✓ dead letters → carrier  1 dead = 1 delivered
  writer received nothing meanwhile

4 effects at the targets, 0 duplicates, 0 lost
latency p50 20.0 ms, p99 500.0 ms at 100 events a second, from the source's topic to the target
first delivered after 12.3 s, both acts after 56.8 s
✓ build/demo/report.json: balanced
✓ build/demo/report-replay.json: balanced

Next, in another terminal:
  trunkline demo break carrier  break it
  trunkline dlq show carrier    see why"""
    )


@pytest.mark.parametrize(("p50", "rate", "waits"), [(999.0, 60, False), (29_629.6, 60, True), (29_629.6, 0, False)])
def test_the_last_screen_says_when_the_machine_did_not_keep_up(
    evidence: Evidence, p50: float, rate: float, *, waits: bool
) -> None:
    shown = told(judge(BUS, Play(), evidence), second(evidence), story(rate=rate))
    lines = screen({**shown, "latency_ms": {"p50": p50, "p99": 90_000.0}})
    assert ("  most of that is waiting: this machine is too slow, or too busy, for this pace" in lines) == waits


def test_the_last_screen_of_a_run_that_differs(evidence: Evidence) -> None:
    lost = judge(BUS, Play(), with_effects(*GOOD[:2])(evidence))
    found = screen(told(lost, second(evidence, letters_meanwhile=1), story(rate=0.0, first_seconds=None, stays=False)))
    assert [line for line in found if line.startswith("✗")] == [
        "✗ t.parcels → carrier     3 read = 2 delivered + 1 lost",
        "✗ dead letters → carrier  1 dead = 1 delivered",
        "✗ build/demo/report.json: 3 differences",
        "✗   t.parcels.carrier, read: 3 by the topics, 2 by the sum of its parts",
        (
            "✗   t.parcels.carrier, delivered: 3 by the input file, 2 by the target, 3 by the bus's metrics, "
            "3 by the bus's ledger"
        ),
        "✗   t.parcels.carrier, lost: 0 by the promise, 1 by the target",
        "✗ build/demo/report-replay.json: 1 difference",
        "✗   replay, calls of writer: 0 by the promise, 1 by the target",
    ]
    assert "  writer received 1 meanwhile" in found
    assert "first delivered after -, both acts after 56.8 s" in found
    assert "Run on a terminal, the bus stays up for these:" in found


@pytest.mark.parametrize(("balanced", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_everything_balanced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, balanced: bool, code: int
) -> None:
    class Staged:
        def __init__(self, *_: Any) -> None: ...

        def run(self, *_: Any) -> bool:
            return balanced

    monkeypatch.setattr(command, "Play", Staged)
    monkeypatch.setattr(command, "load_bus", lambda: BUS)
    monkeypatch.setattr(command, "find", lambda _: Play())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert CliRunner().invoke(command.app, ["run", "any:thing", "--out", str(tmp_path)]).exit_code == code


# Where it runs.


def test_a_scenario_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"the scenario nowhere:x cannot be loaded: No module named 'nowhere'\."):
        scenario.find("nowhere:x")
    with pytest.raises(UsageError, match=r"the scenario json:x cannot be loaded: module 'json' has no attribute 'x'\."):
        scenario.find("json:x")
    with pytest.raises(UsageError, match=r"json names no scenario\. Write it as module:name\."):
        scenario.find("json")


def test_a_scenario_of_another_topology_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the scenario's source till is not one of: desk\."):
        scenario.check(BUS, Play(source="till"))
    with pytest.raises(UsageError, match=r"the scenario's sink truck is not one of: carrier, writer\."):
        scenario.check(BUS, Play(incident=Incident(sink="truck")))


def test_what_an_incident_strikes_comes_of_the_new_events() -> None:
    assert scenario.refused(Play(), BUS, 3, 4) == [("2", "b")]


def test_a_sink_or_target_is_found_at_its_address_or_at_the_demos(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEPOT_URL", "https://depot.example/v2/things")
    monkeypatch.setenv("POST_URL", "http://127.0.0.1:8702")
    settings = Settings(state=tmp_path)
    assert targets.aim(BUS, settings, "carrier") == ("https://depot.example", "v2")
    assert targets.aim(BUS, settings, "post") == ("http://127.0.0.1:8702", "post")
    with targets.announced(BUS, settings, "http://127.0.0.1:9"):
        assert targets.aim(BUS, settings, "depot") == ("http://127.0.0.1:9", "v2")
        assert targets.aim(BUS, settings, "writer") == ("http://127.0.0.1:9", "post")
    assert targets.aim(BUS, settings, "depot") == ("https://depot.example", "v2")
    with pytest.raises(UsageError, match=r"there is no sink or target truck\. There are: carrier, writer, depot, post"):
        targets.aim(BUS, settings, "truck")


def test_only_a_folder_of_a_demo_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    for _ in range(2):
        place.fresh(folder)
        assert [path.name for path in folder.iterdir()] == [".demo"]
        (folder / "report.json").touch()
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match=r"holds something else, and would be emptied\. Take another folder: --out\."):
        place.fresh(tmp_path)
    assert (tmp_path / "mine").exists()


def test_a_taken_port_gives_another() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert place.free_port("127.0.0.1", port) != port
    assert place.free_port("127.0.0.1", port) == port


def test_only_settings_that_differ_become_variables(tmp_path: Path) -> None:
    assert worker.as_environment(Settings()) == {}
    settings = Settings(state=tmp_path, ledger=Ledger(path=tmp_path / "l.db"), gateway=Gateway(port=9))
    assert worker.as_environment(settings) == {
        "TRUNKLINE_STATE": str(tmp_path),
        "TRUNKLINE_LEDGER__PATH": str(tmp_path / "l.db"),
        "TRUNKLINE_GATEWAY__PORT": "9",
    }


def test_secrets_and_certificates_are_inherited_as_they_were_given() -> None:
    secret = SecretStr("correct-horse")
    kafka = Kafka(bootstrap="one:9093", tls=True, ca="PEM", username="shop", password=secret, registry=secret)
    assert worker.as_environment(Settings(kafka=kafka)) == {
        "TRUNKLINE_KAFKA__BOOTSTRAP": "one:9093",
        "TRUNKLINE_KAFKA__TLS": "True",
        "TRUNKLINE_KAFKA__USERNAME": "shop",
    }


def test_commands_carry_what_differs(tmp_path: Path) -> None:
    given = tmp_path / "dev.env"
    given.write_text("A=1\nB=2\n")

    def file(environment: dict[str, str], env: Path | None) -> Path | None:
        context = typer.Context(typer.main.get_command(command.app))
        context.params["env"] = env
        return command.environment_file(context, tmp_path, environment)

    assert file({}, None) is None
    assert file({}, given) == given
    assert file({"B": "3"}, given) == tmp_path / "env"
    assert (tmp_path / "env").read_text().splitlines()[1:] == ["B=3", "A=1", "B=2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["carrier", "--match", "things"], "--match: a path begins with / or *, a field is FIELD=GLOB."),
        (["carrier", "--status", "99"], "--status: Input should be greater than or equal to 200."),
        (["carrier", "--latency", "-5"], "--latency: Input should be greater than or equal to 0."),
        (["carrier", "--reset", "--status", "500"], "reset gives no answer, so it has no status, drip_ms or size."),
        (["truck"], "there is no sink or target truck. There are: carrier, writer, depot, post."),
    ],
)
def test_a_behaviour_that_makes_no_sense_names_its_option(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setenv("DEPOT_URL", "http://127.0.0.1:9/depot")
    monkeypatch.setattr(command, "load_bus", lambda: BUS)
    result = CliRunner().invoke(command.app, ["break", *arguments])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == said


def test_a_latency_of_nothing_is_nothing() -> None:
    report = Report({}, {}, {}, {}, (), (), ())
    assert report.latency(0.5) is None
    assert replace(report, milliseconds=tuple(float(n) for n in range(1, 101))).latency(0.99) == 99.0


class Shut:
    """Takes any signature: the posts are for a gateway of this test."""

    def sign(self, number: str, _body: bytes) -> dict[str, str]:
        return {"webhook-id": number}


@pytest.mark.parametrize(("closes", "left"), [(1, 0), (posting.POSTS, 1)])
def test_what_has_no_answer_is_posted_again_under_its_id(
    closes: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that closes in a sender's face says nothing of the event: it is posted again, and counted."""
    monkeypatch.setattr(posting, "PAUSE", 0)
    said: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        said.extend(line for line in head.lower().split(b"\r\n") if line.startswith(b"webhook-id"))
        if len(said) > closes:
            body = b'{"events": [{"outcome": "published"}]}'
            writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    answers: dict[str, Counter[str]] = {"desk": Counter()}
    sources: Any = {"desk": Desk(verify=Shut())}

    async def post() -> Counter[str]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            gateway = "http://{}:{}".format(*server.sockets[0].getsockname())
            return await posting.post(gateway, sources, [[posting.Posted("desk", b"{}")]], 0, answers, lambda _: None)

    unanswered = asyncio.run(post())
    assert unanswered == {"ConnectError": closes}
    assert answers["desk"] == ({"unanswered": 1} if left else {"published": 1})
    assert len(set(said)) == 1
