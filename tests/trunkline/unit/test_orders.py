import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trunkline.support import deliver_bus, whole_bus
from trunkline.kafka.events import Record, Slot
from trunkline.kafka.orders import (
    Announcement,
    Change,
    Command,
    Full,
    Orders,
    Passed,
    Trusted,
    Worker,
    announcing,
    applied,
    commands_differ,
    leaving,
    mixed,
    passing,
    pausing,
    resuming,
    skipped,
    skipping,
    this_worker,
    topology_of,
    trusting,
)
from trunkline.operate.control import answer, standings

THEN = datetime(2026, 5, 1, tzinfo=UTC)
BUS = deliver_bus("o")
[FLOW] = BUS.delivering


def command(name: str = "c1", why: str = "") -> Command:
    return Command(name, "ann@desk", THEN, why)


def said(
    name: str, *flows: str, applied: int = 0, at: datetime = THEN, topology: str = "t1", halted: str = ""
) -> Announcement:
    worker = Worker(name, "host", 1, flows or (FLOW,), topology)
    full = (Full(FLOW, "o.notes", 1, "a"), Full(FLOW, "o.notes", 2, None))
    return Announcement(worker, applied, {FLOW: halted} if halted else {}, full, at)


def records(changes: Sequence[Change], *, at: datetime = THEN, start: int = 0) -> list[Record]:
    """Give changes as they stand on the topic."""
    timestamp = int(at.timestamp() * 1000)
    return [
        Record(Slot("c", 0), offset, key.encode(), value, (), timestamp)
        for offset, (key, value) in enumerate(changes, start)
    ]


names = st.sampled_from(["shelf", "store"])
events = st.sampled_from(["e1", "a/b", ""])
commands = st.builds(Command, st.sampled_from(["c1", "c2"]), st.just("ann"), st.just(THEN), st.sampled_from(["", "x"]))
changes = st.one_of(
    st.builds(pausing, names, commands),
    st.builds(resuming, names, commands),
    st.builds(skipping, names, events, commands),
    st.builds(skipped, names, events),
    st.builds(lambda name, offset: announcing(said(name, applied=offset)), st.sampled_from("vw"), st.integers(0, 9)),
    st.builds(leaving, st.sampled_from("vw")),
    st.builds(lambda epoch: trusting(Trusted("l", epoch)), st.integers(1, 3)),
    st.sampled_from([[("pause/shelf", b"{}")], [("what", b"x")], [("worker/v", b"[]")], [("ledger", b"7")]]),
)
topics = st.lists(changes, max_size=20).map(lambda groups: records([one for group in groups for one in group]))


@given(topics, st.data())
def test_what_holds_does_not_depend_on_how_the_records_arrive_or_on_compaction(
    topic: list[Record], data: st.DataObject
) -> None:
    whole = applied(Orders(), topic)
    cut = data.draw(st.integers(0, len(topic)))
    assert applied(applied(Orders(), topic[:cut]), topic[cut:]) == whole
    good = [one for one in topic if one.value not in (b"{}", b"x", b"[]", b"7")]
    last = {one.key: one.offset for one in good}
    compacted = [one for one in good if last[one.key] == one.offset]
    assert replace(applied(Orders(), compacted), position=whole.position) == whole
    assert whole.position == len(topic)


ORDERS = [
    *pausing("shelf", command()),
    *skipping("shelf", "e1", command()),
    *trusting(Trusted("l", 1)),
    *announcing(said("v", halted="why")),
    *passing(Passed(FLOW, 0, 1, 5, expired=True)),
]
ODD: list[Any] = [None, True, -7, "x", [[]], ["a"], {"a": {}}]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, value in ORDERS if value is not None])
def test_a_record_of_another_form_is_passed_over_whoever_wrote_it(key: str, value: bytes) -> None:
    whole = json.loads(value)
    for inside in ("", "worker") if "worker" in whole else ("",):
        for field in whole[inside] if inside else whole:
            for odd in ODD:
                told = json.loads(value)
                (told[inside] if inside else told)[field] = odd
                held = applied(Orders(), records([(key, json.dumps(told).encode())]))
                commands_differ(Orders(), held)
                mixed(held, THEN)
                standings(BUS, held, THEN)
                assert all(isinstance(flow, str) for one in held.workers.values() for flow in one.worker.flows)


def test_every_command_is_read_back() -> None:
    held = applied(
        Orders(),
        records(
            [
                *pausing("shelf", command("c1", "the target moves")),
                *resuming("store", command("c2")),
                *skipping("shelf", "a/b", command("c3")),
                *trusting(Trusted("abc", 4)),
            ]
        ),
    )
    assert held.paused == {"shelf": Command("c1", "ann@desk", THEN, "the target moves")}
    assert held.resumed == {"store": command("c2")}
    assert held.skipped == {("shelf", "a/b"): command("c3")}
    assert (held.skips("shelf"), held.skips("store")) == (frozenset({"a/b"}), frozenset())
    assert held.ledger == Trusted("abc", 4)
    assert applied(held, records([*resuming("shelf", command()), *skipped("shelf", "a/b")], start=5)).paused == {}


def test_what_a_flow_never_reads_is_known_for_good_and_when_that_was_noted() -> None:
    lost, left = Passed("f", 2, 5, 9, expired=True, at=THEN), Passed("f", 2, 9, 12, expired=False, at=THEN)
    there = applied(
        Orders(), records([*passing(lost), *passing(left), *passing(lost), *passing(replace(lost, flow="g"))])
    )
    assert there.never_read("f") == [lost, left]
    assert [offset for offset in range(15) if lost.has(offset)] == [5, 6, 7, 8]
    assert not commands_differ(Orders(), there)


def test_what_a_worker_says_is_dated_by_the_broker() -> None:
    held = applied(Orders(), records(announcing(said("w", halted="bad secret", applied=3)), at=THEN))
    assert held.workers == {"w": said("w", halted="bad secret", applied=3, at=THEN)}
    assert applied(held, records(leaving("w"))).workers == {}


def test_only_commands_are_obeyed() -> None:
    quiet = applied(Orders(), records(announcing(said("w"))))
    assert not commands_differ(Orders(), quiet)
    assert commands_differ(quiet, applied(quiet, records(pausing("shelf", command()))))
    assert commands_differ(quiet, applied(quiet, records(trusting(Trusted("l", 1)))))


def held(*announcements: Announcement) -> Orders:
    return Orders(workers={one.worker.id: one for one in announcements})


def test_live_workers_of_the_sink_are_waited_for_and_no_others() -> None:
    now = THEN + timedelta(seconds=14)
    obeys, silent = said("a", applied=8), said("b", applied=7)
    gone, other = said("c", at=THEN - timedelta(seconds=2)), said("d", "another.flow")
    there = held(obeys, silent, gone, other)
    found = answer(there, [FLOW], 7, members=3, now=now)
    assert (found.obeying, found.silent, found.unknown, found.complete) == ((obeys,), (silent,), 1, False)
    assert answer(held(obeys), [FLOW], 7, members=1, now=now).complete
    assert answer(held(gone), [FLOW], 7, members=0, now=now).complete
    assert not answer(held(), [FLOW], 7, members=1, now=now).complete
    both = said("a", FLOW, "f2", applied=8)
    assert answer(held(both), [FLOW, "f2"], 7, members=2, now=now).complete


@given(st.integers(0, 9), st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 9), st.integers(0, 30))))
def test_an_answer_is_complete_when_everybody_who_lives_obeys(offset: int, workers: dict[str, tuple[int, int]]) -> None:
    there = held(
        *(said(name, applied=position, at=THEN - timedelta(seconds=age)) for name, (position, age) in workers.items())
    )
    living = {name: position for name, (position, age) in workers.items() if age <= 15}
    found = answer(there, [FLOW], offset, members=len(living), now=THEN)
    assert found.complete == all(position > offset for position in living.values())
    assert {one.worker.id for one in (*found.obeying, *found.silent)} == living.keys()


def test_a_fleet_is_mixed_while_two_topologies_live() -> None:
    one, two = said("a"), said("b", topology="t2", at=THEN - timedelta(seconds=10))
    assert mixed(held(one, two), THEN)
    assert not mixed(held(one, two), THEN + timedelta(seconds=6))
    assert not mixed(held(one, said("c")), THEN)
    assert not mixed(Orders(), THEN)


def test_how_a_sink_stands() -> None:
    there = replace(
        held(said("a", halted="bad secret"), said("b", "another.flow"), said("c", at=THEN - timedelta(minutes=1))),
        paused={"shelf": command(), "gone": command()},
        skipped={("shelf", "e2"): command(), ("shelf", "e1"): command(), ("gone", "e"): command()},
    )
    [found] = standings(BUS, there, THEN)
    assert (found.sink, found.flows, found.paused) == ("shelf", (FLOW,), command())
    assert [one.worker.id for one in found.workers] == ["a"]
    assert found.halted == (("a", "bad secret"),)
    assert [(full.partition, full.key) for full in found.full] == [(1, "a"), (2, None)]
    assert found.skips == ("e1", "e2")


@pytest.mark.parametrize(("prefix", "partitions", "same"), [("o", 3, True), ("o", 4, False), ("p", 3, False)])
def test_a_topology_is_known_by_what_it_declares(prefix: str, partitions: int, same: bool) -> None:  # noqa: FBT001
    assert (topology_of(deliver_bus(prefix, partitions)) == topology_of(BUS)) is same
    assert topology_of(whole_bus("o")) != topology_of(BUS)


def test_two_workers_of_one_process_are_two() -> None:
    ids = {this_worker(BUS, [FLOW]).id for _ in range(20)}
    assert len(ids) == 20
    assert this_worker(BUS, [FLOW]).flows == (FLOW,)
