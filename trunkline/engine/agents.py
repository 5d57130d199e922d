"""Topic to topic in time: a body for each partition, which is given events and told how late it is.

    fetch ─▶ decode ─▶ body (a Faust agent) ─▶ encode ─▶ produced and acknowledged ─▶ offsets and notes

One thread runs a flow: it fetches, lets the bodies take what came, and commits. Beside each offset it notes from where
a body that begins anew has to read (docs/agents.md). What a body is given a second time it is given quietly: what comes
of it is there already. An event at which a body raises is dead, acknowledged, before anything goes on; when that
cannot be, the process ends and nothing is committed.
"""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

import structlog
from pydantic import TypeAdapter, ValidationError

from trunkline import deadletter
from trunkline.deadletter import Failure, Origin
from trunkline.engine.eventtime import LATE, Note, Reach, note_of, time_of
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import (
    EXIT,
    Halt,
    Permanent,
    Poison,
    Retryable,
    TrunklineError,
    Unavailable,
    UnknownSchema,
    UsageError,
)
from trunkline.event import Event, Headers, Moment, derived_id, from_headers, to_headers, to_parent
from trunkline.flow.declare import Agent, Bus, dead_letters_of, flow_name, group_of, identity_of, inputs_of, source_of
from trunkline.flow.transform import key_of
from trunkline.kafka.agents import Actor, app_of
from trunkline.kafka.events import Member, Record, Sender, Slot, Written, clock
from trunkline.kafka.orders import Fleet
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import RECORD_BYTES, size_of
from trunkline.observe import Observed, Observer
from trunkline.redact import marked, redact
from trunkline.verdict import Guard, of_exception

BATCH = 2_000
TICK = 100
"""Milliseconds by which time has gone on at least when a body is told."""
ACKNOWLEDGED = 15.0
"""Seconds in which the broker must have acknowledged what was written; a little more than a sender's patience."""
CLOSING = 30.0
"""Seconds that leaving the group may take."""
ASKING = 2.0
"""Seconds in which the fleet must have answered, else the flow is left to others."""

D = TypeVar("D", bound=Mapping[str, Any])
E = TypeVar("E", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Taken(Event[D]):
    """An event that a body was given; what is made of it says where it stood."""

    partition: int = 0
    offset: int = 0

    def having(self, data: E) -> "Taken[E]":
        """Return the same event with other data, and where it stood."""
        return replace(self, data=data)  # type: ignore[arg-type, return-value]


@dataclass(slots=True)
class Lane:
    """One partition of a flow: how far its topics are, its body, and what the bus remembers for it."""

    number: int
    reaches: dict[str, Reach]
    """By topic."""
    actor: Actor
    spoken: int | None
    """Up to when the body had spoken before: what it says of earlier times is there already."""
    quiet: bool = True
    """While the body is given again what it was given before."""
    told: int | None = None
    """How late the body knows it is."""
    pending: list[Record] = field(default_factory=list)
    """Fetched, and not given yet."""
    skipped: set[tuple[str, int]] = field(default_factory=set)
    """Topic and offset of what the body has raised at."""
    ids: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """The events that the body was given, with the offsets and times of their records."""
    ordinals: dict[tuple[str, str, str | None], tuple[int, int]] = field(default_factory=dict)
    """How many records of one key were made of an event, and when the last one was."""


@dataclass(frozen=True, slots=True)
class Given:
    """One moment for a body, and the record that it is of; None when only time has passed."""

    moment: Moment[Any]
    record: Record | None
    passed: bool = False
    """Whether the body is not to see it: the event has come before, or the body had raised at it."""


Write = tuple[bytes | None, bytes, Headers]


class Timekeeper:
    """Runs one Agent flow until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        flow: Agent,
        *,
        bootstrap: str,
        forms: Mapping[str, Format],
        sender: Sender,
        fleet: Fleet,
        observe: Observer,
    ) -> None:
        """Prepare; `forms` holds the format of every topic of the flow by name.

        Raises:
            UsageError: the window is a setting, and not set or no duration.
        """
        self.name = flow_name(flow)
        self.heart = Heart(self.name)
        self.halted = ""
        """Why the flow stands still; empty while it runs."""
        self._flow = flow
        self._window = window_of(flow)
        self._source = source_of(bus, flow)
        self._letters = dead_letters_of(identity_of(flow))
        self._bootstrap = bootstrap
        self._group = group_of(bus, identity_of(flow))
        self._topics = {topic.name: topic for topic in inputs_of(flow)}
        self._forms = forms
        self._sender = sender
        self._fleet = fleet
        self._observe = observe
        self._guard = Guard()
        self._lanes: dict[int, Lane] = {}
        self._notes: dict[Slot, Note] = {}
        self._resumes: dict[Slot, int] = {}
        self._positions: dict[Slot, Position] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Join the group and begin."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Finish what was fetched, at most so long, commit and leave the group; say whether that was in time."""
        self._stopping.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def positions(self) -> dict[Slot, Position]:
        """Say how far each partition is finished; may be asked from any thread."""
        return self._positions

    # The thread.

    def _run(self) -> None:
        """Run sessions: one that fails is followed by another, which begins at the committed offsets and notes."""
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._app = app_of(self._group)
        while not self._stopping.is_set():
            try:
                self._session()
            except UnknownSchema as error:
                self._see("stuck", detail=f"left to workers of another topology: {error}")
                self._leave_to_others()
            except Halt as error:
                self._halt(str(error))
                break
            except Unavailable as error:
                self._see("stuck", detail=f"it is tried again: {error}")
                self._stopping.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._halt(f"bug in Trunkline: {type(error).__name__}: {error}")
                break
        self.heart.rest()
        self._loop.run_until_complete(cancel_all())
        self._loop.close()

    def _session(self) -> None:
        self._guard = Guard()
        member = Member(
            self._bootstrap,
            self._group,
            self._flow.topic.name,
            replay=None if self._flow.join is None else self._flow.join.name,
            begin=self._begin,
            note=lambda slot: str(self._notes.get(slot, "")),
            assigned=self._assigned,
            revoked=self._revoked,
            lost=self._drop,
        )
        try:
            while not self._stopping.is_set():
                self.heart.beat()
                records = member.fetch(BATCH, 0.1)
                fetched, now = clock(), time.time_ns() // 1_000_000
                for record in records:
                    self._lanes[record.slot.partition].pending.append(record)
                for lane in self._lanes.values():
                    self._advance(lane, member, fetched, now)
                member.pause({record.slot for lane in self._lanes.values() for record in lane.pending})
                self._positions = {slot: Position(offset, None) for slot, offset in self._offsets().items()}
                member.commit(self._offsets())
        finally:
            with self.heart.within(CLOSING):
                member.close()
                self._drop([Slot(self._flow.topic.name, number) for number in self._lanes])

    # Partitions come and go; the member calls these inside `fetch`.

    def _begin(self, slot: Slot, offset: int, text: str) -> int:
        """Say where to begin to read a partition in which the group has come to `offset`."""
        self._notes[slot], self._resumes[slot] = note_of(text, offset), offset
        return self._notes[slot].since

    def _assigned(self, slots: list[Slot], _worked: Mapping[Slot, int]) -> None:
        self.heart.joined = True
        for number in sorted({slot.partition for slot in slots}):
            places = [Slot(topic, number) for topic in self._topics]
            spoken = [time for place in places if (time := self._notes[place].time) is not None]
            reaches = {place.topic: Reach(self._notes[place].since, self._resumes[place]) for place in places}
            self._lanes[number] = Lane(number, reaches, self._actor(number), max(spoken, default=None))

    def _actor(self, number: int) -> Actor:
        """Let a body begin."""
        actor = Actor(self._app, f"{self.name}.{number}", self._body, self.heart.beat)
        self._loop.run_until_complete(actor.start())
        return actor

    def _body(self, stream: Any) -> AsyncIterator[Any]:
        return self._flow.body(stream, self._window)

    def _revoked(self, slots: list[Slot]) -> Mapping[Slot, int]:
        """Give what to commit: what was given is finished, for one thread does one thing after another."""
        offsets = {slot: offset for slot, offset in self._offsets().items() if slot in slots}
        self._drop(slots)
        return offsets

    def _drop(self, slots: Collection[Slot]) -> None:
        for number in {slot.partition for slot in slots} & self._lanes.keys():
            self._loop.run_until_complete(self._lanes.pop(number).actor.stop())

    def _offsets(self) -> dict[Slot, int]:
        return {
            Slot(topic, lane.number): reach.resume if lane.quiet else reach.at
            for lane in self._lanes.values()
            for topic, reach in lane.reaches.items()
        }

    # What a partition is given.

    def _advance(self, lane: Lane, member: Member, fetched: float, now: int) -> None:
        """Give a body what has come for it, and say how late it is."""
        if lane.quiet and not self._repeat(lane, member, fetched, now):
            return
        while lane.pending and not lane.quiet and not self._stopping.is_set():
            given, bad = self._take(lane, fetched)
            if self._give(lane, given, member) and bad is not None:
                self._bury(lane, *bad)
        self._meet_ends(lane, member, now)
        late = time_of(lane.reaches.values(), now)
        if not lane.quiet and late is not None and (lane.told is None or late >= lane.told + TICK):
            self._give(lane, [tick(late)], member)

    def _repeat(self, lane: Lane, member: Member, fetched: float, now: int) -> bool:
        """Give a new body quietly what the last one was given; say whether it has come as far as that one."""
        later = [record for record in lane.pending if record.offset >= lane.reaches[record.slot.topic].resume]
        lane.pending = [record for record in lane.pending if record.offset < lane.reaches[record.slot.topic].resume]
        while lane.pending:
            given, bad = self._take(lane, fetched)
            if not self._give(lane, given, member):
                return False
            if bad is not None:
                lane.reaches[bad[0].slot.topic].read(bad[0].offset, bad[0].timestamp)
        lane.pending = later
        self._meet_ends(lane, member, now)
        if any(reach.at < reach.resume for reach in lane.reaches.values()):
            return False
        if lane.spoken is not None and not self._give(lane, [tick(lane.spoken)], member):
            return False
        lane.quiet = False
        return True

    def _meet_ends(self, lane: Lane, member: Member, now: int) -> None:
        """Note which topics are read to their ends; the marks of transactions there are no records."""
        waiting = {record.slot.topic for record in lane.pending}
        for topic, reach in lane.reaches.items():
            if topic not in waiting and (slot := Slot(topic, lane.number)) in member.ended:
                reach.ended(member.met[slot], now)

    def _take(self, lane: Lane, fetched: float) -> tuple[list[Given], tuple[Record, Permanent | Poison] | None]:
        """Take from what is pending up to the first record that is no event; give that one with the reason."""
        given: list[Given] = []
        while lane.pending:
            record = lane.pending.pop(0)
            at = moment_of(record.timestamp)
            if (record.slot.topic, record.offset) in lane.skipped:
                given.append(Given(Moment(at, None), record, passed=True))
                continue
            try:
                event = self._event(record)
                self._consider_newer(record, fetched)
                given.append(Given(Moment(at, event), record, passed=is_repeat(lane, event, record)))
            except UnknownSchema as error:
                if self._known_elsewhere(fetched):
                    raise
                return given, (record, error)
            except (Permanent, Poison) as error:
                return given, (record, error)
        return given, None

    def _consider_newer(self, record: Record, fetched: float) -> None:
        """Let other workers have what is of a version of its schema that ours is too old for (L5).

        Raises:
            UnknownSchema: one may have that version.
        """
        form = self._forms[record.slot.topic]
        if not form.knows(record.value):
            if self._known_elsewhere(fetched):
                raise UnknownSchema("it was written with a version of its schema that this topology has not")
            form.accept(record.value)

    def _event(self, record: Record) -> Taken[Any]:
        event = from_headers(record.headers, record.key, self._forms[record.slot.topic].decode(record.value))
        return Taken(
            event.id,
            event.time,
            event.data,
            event.source,
            event.type,
            event.key,
            event.traceparent,
            record.slot.partition,
            record.offset,
        )

    def _give(self, lane: Lane, given: Sequence[Given], member: Member) -> bool:
        """Let the body have moments, and write what it makes of them; say whether it is still there."""
        shown = [one for one in given if not one.passed]
        made, failure = self._loop.run_until_complete(lane.actor.give([one.moment for one in shown]))
        writes: list[Write] = []
        finished: list[Given] = []
        for one, events in zip(shown, made, strict=False):
            try:
                writes += [self._write(lane, event, one.moment) for event in events]
            except Permanent as error:
                failure = error
                break
            finished.append(one)
        if not lane.quiet:
            self._emit(writes)
        left = shown[len(finished) :]
        counts: Counter[str] = Counter()
        for one in given:
            if left and one is left[0]:
                break
            counts[self._finish(lane, one)] += 1
        self._count(lane, counts)
        if not lane.quiet and (writes or any(one.record is not None for one in given)):
            self._note(lane)
        if failure is None:
            return True
        self._consider(lane, left, failure)
        self._begin_again(lane, member)
        return False

    def _finish(self, lane: Lane, one: Given) -> str:
        """Note that the body has finished a moment, and that what it made of it is written; say what it was."""
        if one.record is None:
            lane.told = millis_of(one.moment.at)
            return "told"
        lane.reaches[one.record.slot.topic].read(one.record.offset, one.record.timestamp)
        return "repeat" if one.passed else "taken"

    def _count(self, lane: Lane, counts: Mapping[str, int]) -> None:
        """Count what a body has finished for the first time."""
        if lane.quiet:
            return
        if taken := counts.get("taken", 0):
            self._guard = Guard() if self._guard.count else self._guard
            self._see("read", count=taken)
            self._see("taken", count=taken)
        if repeats := counts.get("repeat", 0):
            self._see("repeat", count=repeats)

    def _note(self, lane: Lane) -> None:
        """Write down from where a body that begins anew has to read, and up to when this one has spoken."""
        lane.spoken = lane.told if lane.spoken is None else max(lane.spoken, lane.told or 0)
        limit = (lane.spoken or 0) - round(self._window.total_seconds() * 1000) - LATE
        for topic, reach in lane.reaches.items():
            self._notes[Slot(topic, lane.number)] = Note(reach.since(limit), lane.spoken)
        forget(lane.ids, limit)
        forget(lane.ordinals, limit)

    # What a body makes.

    def _write(self, lane: Lane, made: Any, moment: Moment[Any]) -> Write:
        """Write a record that a body has made.

        Raises:
            Permanent: it is made of no event, does not fit its topic, or is too large.
        """
        if not isinstance(made, Taken):
            raise Permanent(f"it yields a {type(made).__name__}; yield event.having(record) of an event of its stream")
        topic = self._flow.to
        key = key_of(topic, made.data)
        count, _ = lane.ordinals.get((made.source, made.id, key), (0, 0))
        lane.ordinals[made.source, made.id, key] = count + 1, millis_of(moment.at)
        event = Event(
            id=derived_id(made, topic.name, key, count),
            source=self._source,
            type=topic.schema.event_type,
            time=made.time,
            key=key,
            data=made.data,
            traceparent=made.traceparent,
        )
        raw = None if key is None else key.encode()
        value = self._forms[topic.name].encode(event.data)
        headers = (*to_headers(event), to_parent(made, made.partition, made.offset))
        if (size := size_of(raw, value, headers)) > RECORD_BYTES:
            raise Permanent(
                f"the record for {topic.name} has {size} bytes with key and headers; {RECORD_BYTES} are allowed"
            )
        return raw, value, headers

    def _emit(self, writes: Sequence[Write]) -> None:
        """Write records and wait for the acknowledgement of each.

        Raises:
            Unavailable: one was not acknowledged: all of it comes again, under the same ids.
            Halt: the broker refuses one for good.
        """
        if not writes:
            return
        name = self._flow.to.name
        sent = [self._sender.send(name, key, value, headers) for key, value, headers in writes]
        self._see("produced", count=len(sent))
        for future in sent:
            self._acknowledged(future)
        self._see("emitted", topic=name, count=len(sent))

    def _acknowledged(self, future: "Future[Written]") -> None:
        self.heart.beat()
        try:
            with self.heart.within(ACKNOWLEDGED):
                future.result(ACKNOWLEDGED)
        except TimeoutError:
            raise Unavailable("the broker did not acknowledge a record: no answer") from None
        except Permanent as error:
            raise Halt(f"the broker refuses what the agent has made: {error}") from None

    # What a body raises at.

    def _consider(self, lane: Lane, left: Sequence[Given], failure: BaseException) -> None:
        """Decide about what a body has raised at the first that is left: it waits, or the event goes dead.

        Raises:
            Halt: there is no event whose fault it could be, or it is not the event but everything.
        """
        culprit = left[0].record if left else None
        if isinstance(failure, Retryable | OSError | TimeoutError | Unavailable) or not left:
            where = "between two events" if culprit is None else f"at offset {culprit.offset} of {culprit.slot.topic}"
            self._see("stuck", detail=f"the body waits {where}: {self._told(culprit, failure)}")
            self._stopping.wait(1.0)
        elif culprit is None:
            raise Halt(f"its body raised when only time had passed, at no event: {type(failure).__name__}: {failure}")
        elif lane.quiet:
            lane.skipped.add((culprit.slot.topic, culprit.offset))  # its letter was written the first time
        else:
            error = failure if isinstance(failure, TrunklineError) else bug(self._flow, failure)
            lane.skipped.add((culprit.slot.topic, culprit.offset))
            self._bury(lane, culprit, error)

    def _begin_again(self, lane: Lane, member: Member) -> None:
        """Let a new body begin in place of one that has failed, with what that one remembered."""
        self._loop.run_until_complete(lane.actor.stop())
        lane.actor, lane.told = self._actor(lane.number), None
        lane.pending.clear()
        lane.ids.clear()
        lane.ordinals.clear()
        for reach in lane.reaches.values():
            reach.again(resume=reach.resume if lane.quiet else reach.at)
        lane.quiet = True
        member.rewind({Slot(topic, lane.number): reach.at for topic, reach in lane.reaches.items()})

    def _bury(self, lane: Lane, record: Record, error: TrunklineError) -> None:
        """Write a dead letter, acknowledged; then the record is behind us. When it cannot be, the process ends.

        Raises:
            Halt: it is not the event but everything.
        """
        verdict = self._guard.consider(of_exception(error), record.key)
        if isinstance(verdict, Halt):
            raise verdict
        origin, poison = Origin(*record.slot, record.offset), isinstance(error, Poison)
        failure = Failure(
            flow=self.name,
            kind="poison" if poison else "permanent",
            stage="decode" if poison else "process",
            error=type(error).__name__,
            message=self._told(record, error),
            attempts=1,
            status=None,
            at=datetime.now(UTC),
        )
        headers = deadletter.write(record.headers, origin, failure)
        try:
            try:
                self._bury_as(record, record.value, headers)
            except Permanent:
                self._bury_as(record, None, deadletter.by_reference(headers, record.value))
        except (TrunklineError, TimeoutError) as unwritten:
            end_process(f"{self.name}: the dead letter of offset {record.offset} cannot be written: {unwritten}")
        self._see("buried")
        lane.reaches[record.slot.topic].read(record.offset, record.timestamp)
        event = deadletter.stray(origin) if poison else from_headers(record.headers, record.key)
        self._see("read")
        self._see("dead", event=event.id, detail=failure.message, outcome=failure.kind)

    def _bury_as(self, record: Record, value: bytes | None, headers: Headers) -> None:
        with self.heart.within(ACKNOWLEDGED):
            sent = self._sender.send(self._letters, record.key, value, headers, partition=record.slot.partition)
            sent.result(ACKNOWLEDGED)

    def _told(self, record: Record | None, error: BaseException) -> str:
        """Give an error's words without secrets, and without what the schema marks as sensitive."""
        try:
            data = {} if record is None else self._forms[record.slot.topic].decode(record.value)
        except (Permanent, Poison, Unavailable):
            data = {}
        topic = self._flow.topic if record is None else self._topics[record.slot.topic]
        return redact(str(error), marked(topic.schema.definition, data))

    # The fleet.

    def _known_elsewhere(self, fetched: float) -> bool:
        """Say whether another worker may know what this one does not, of a record fetched by then (L5)."""
        until = clock() + ASKING
        while self._fleet.looked < fetched and clock() < until and not self._stopping.is_set():
            self._fleet.asked.set()
            self.heart.beat()
            self._stopping.wait(0.02)
        return self._fleet.uniform < fetched

    def _leave_to_others(self) -> None:
        """Be no member of the group until all workers run one topology: who may know what is unknown here is one."""
        self.heart.rest()
        since = clock()
        while self._fleet.uniform < since and not self._stopping.wait(0.2):
            pass

    def _halt(self, reason: str) -> None:
        self.halted = redact(reason)
        self._see("halted", detail=self.halted)

    def _see(self, what: Any, **more: Any) -> None:
        self._observe(Observed(what, self.name, **more))


def window_of(flow: Agent) -> timedelta:
    """Give for how long an agent remembers an event.

    Raises:
        UsageError: it is a setting, and not set, or no duration above 0 as ISO 8601 writes it.
    """
    if isinstance(flow.window, timedelta):
        return flow.window
    text = flow.window.read()
    try:
        found = TypeAdapter(timedelta).validate_python(text)
    except ValidationError:
        found = timedelta(0)
    if found <= timedelta(0):
        raise UsageError(f"{flow.window.name} is {text!r}: write a duration such as PT30M or PT8S.")
    return found


def is_repeat(lane: Lane, event: Event[Any], record: Record) -> bool:
    """Say whether an event has come before, as another record; then it is no event of its own."""
    first, _ = lane.ids.setdefault((event.source, event.id), (record.offset, record.timestamp))
    return first != record.offset


def forget(known: dict[Any, tuple[int, int]], limit: int) -> None:
    """Take out what is older, from the front: what is known is nearly in the order of time."""
    while known and known[first := next(iter(known))][1] <= limit:
        del known[first]


def bug(flow: Agent, failure: BaseException) -> Permanent:
    """Say that a body has raised what it should not."""
    return Permanent(f"bug in {getattr(flow.body, '__name__', 'the body')}: {type(failure).__name__}: {failure}")


def tick(at: int) -> Given:
    """Give the moment in which only time has passed."""
    return Given(Moment(moment_of(at), None), None)


def moment_of(millis: int) -> datetime:
    """Give a time in epoch milliseconds as a time."""
    return datetime.fromtimestamp(millis / 1000, UTC)


def millis_of(at: datetime) -> int:
    """Give a time in epoch milliseconds."""
    return round(at.timestamp() * 1000)


async def cancel_all() -> None:
    """Cancel what is left in the loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def end_process(why: str) -> NoReturn:
    """End the process at once: what is not committed comes again."""
    structlog.get_logger("trunkline").critical("agent", why=redact(why), exit_code=EXIT)
    os._exit(EXIT)
