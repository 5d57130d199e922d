"""Topic to topic in time: a body for each partition, which is given events and told how late it is.

    fetch ─▶ decode ─▶ body (a Faust agent) ─▶ encode ─▶ produced and acknowledged ─▶ offsets and notes

One thread runs a flow: it fetches, lets the bodies take what came, and commits. Beside each offset it notes from where
a body that begins anew has to read (docs/agents.md). What a body is given a second time it is given quietly: what comes
of it is there already. An event at which a body raises is dead, acknowledged, before anything goes on; when that
cannot be, the process ends and nothing is committed. An event that a replay has sent comes at the time of the replay.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trunkline.engine.elsewhere import Elsewhere
from trunkline.engine.eventtime import LATE, Note, Reach, note_of, time_of
from trunkline.engine.moments import Moments
from trunkline.engine.outbox import Outbox, Write
from trunkline.engine.partition import Given, Partition, Try, tick
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import (
    Halt,
    Permanent,
    Retryable,
    TrunklineError,
    Unavailable,
    UnknownSchema,
    UsageError,
    defect,
)
from trunkline.flow.declare import (
    Agent,
    Bus,
    dead_letters_of,
    flow_name,
    group_of,
    identity_of,
    inputs_of,
    replay_of,
)
from trunkline.flow.transform import bug
from trunkline.kafka.agents import Actor, app_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import AT_END, NOWHERE, Member, Record, Sender, Slot, clock
from trunkline.kafka.orders import Fleet
from trunkline.kafka.registry import Format
from trunkline.kafka.stored import stored_since
from trunkline.observe import Observed, Observer, What
from trunkline.redact import redact
from trunkline.verdict import Guard, of_exception

BATCH = 2_000
TICK = 100
"""Milliseconds by which time has gone on at least when a body is told."""
CLOSING = 30.0
"""Seconds that leaving the group may take."""


class Timekeeper:
    """Runs one Agent flow until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        flow: Agent,
        *,
        cluster: Cluster,
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
        self._remembers = window_of(flow)
        self._window = round(self._remembers.total_seconds() * 1000)
        self._letters = dead_letters_of(identity_of(flow))
        self._replay = replay_of(identity_of(flow))
        self._cluster = cluster
        self._group = group_of(bus, identity_of(flow))
        self._topics = [topic.name for topic in inputs_of(flow)]
        self._observe = observe
        self._guard = Guard()
        self._parts: dict[int, Partition] = {}
        self._notes: dict[Slot, Note] = {}
        self._resumes: dict[Slot, int] = {}
        self._positions: dict[Slot, Position] = {}
        self._stopping = threading.Event()
        self._elsewhere = Elsewhere(fleet, self.heart, self._stopping)
        self._moments = Moments(flow, forms, self._elsewhere)
        self._outbox = Outbox(bus, flow, forms=forms, sender=sender, heart=self.heart, observe=observe)
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
                self._elsewhere.leave_to_others()
            except Halt as error:
                self._halt(error)
                break
            except Unavailable as error:
                self._see("stuck", detail=f"it is tried again: {error}")
                self._stopping.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._halt(defect(error))
                break
        self.heart.rest()
        self._loop.run_until_complete(cancel_all())
        self._loop.close()

    def _session(self) -> None:
        self._guard = Guard()
        member = Member(
            self._cluster,
            self._group,
            self._flow.topic,
            beside={**dict.fromkeys(self._topics[1:], NOWHERE), self._replay: AT_END},
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
                    self._parts[record.slot.partition].pending.append(record)
                for part in self._parts.values():
                    self._advance(part, member, fetched, now)
                member.pause({record.slot for part in self._parts.values() for record in part.pending})
                self._positions = {slot: Position(offset, None) for slot, offset in self._offsets().items()}
                member.commit(self._offsets())
        finally:
            with self.heart.within(CLOSING):
                member.close()
                self._drop([Slot(self._flow.topic.name, number) for number in self._parts])

    # Partitions come and go; the member calls these inside `fetch`.

    def _begin(self, slot: Slot, offset: int, text: str) -> int:
        """Say where to begin to read a partition in which the group has come to `offset`."""
        self._notes[slot], self._resumes[slot] = note_of(text, offset), offset
        return self._notes[slot].since

    def _assigned(self, slots: list[Slot], _worked: Mapping[Slot, int]) -> None:
        self.heart.joined = True
        numbers = sorted({slot.partition for slot in slots})
        dead = self._dead(numbers)
        for number in numbers:
            places = self._places(number)
            spoken = [time for place in places if (time := self._notes[place].time) is not None]
            reaches = {place.topic: Reach(self._notes[place].since, self._resumes[place]) for place in places}
            part = Partition(number, reaches, self._actor(number), max(spoken, default=None), dead.get(number, set()))
            self._parts[number] = part

    def _places(self, number: int) -> list[Slot]:
        return [Slot(topic, number) for topic in (*self._topics, self._replay)]

    def _dead(self, numbers: Sequence[int]) -> dict[int, set[Try]]:
        """Read which of the events that a new body is to be given quietly have dead letters, by partition."""
        times = {
            Slot(self._letters, number): max(self._notes[place].time or 0 for place in self._places(number))
            for number in numbers
            if any(self._notes[place].since < self._resumes[place] for place in self._places(number))
        }
        with self.heart.within(CLOSING):
            since = {slot: time - self._window - 2 * LATE for slot, time in times.items()}
            return self._moments.buried(stored_since(self._cluster, since))

    def _actor(self, number: int) -> Actor:
        """Let a body begin."""
        actor = Actor(self._app, f"{self.name}.{number}", self._body, self.heart.beat)
        self._loop.run_until_complete(actor.start())
        return actor

    def _body(self, stream: Any) -> AsyncIterator[Any]:
        return self._flow.body(stream, self._remembers)

    def _revoked(self, slots: list[Slot]) -> Mapping[Slot, int]:
        """Give what to commit: what was given is finished, for one thread does one thing after another."""
        offsets = {slot: offset for slot, offset in self._offsets().items() if slot in slots}
        self._drop(slots)
        return offsets

    def _drop(self, slots: Collection[Slot]) -> None:
        for number in {slot.partition for slot in slots} & self._parts.keys():
            self._loop.run_until_complete(self._parts.pop(number).actor.stop())

    def _offsets(self) -> dict[Slot, int]:
        return {slot: offset for part in self._parts.values() for slot, offset in part.offsets().items()}

    # What a partition is given.

    def _advance(self, part: Partition, member: Member, fetched: float, now: int) -> None:
        """Give a body what has come for it, and say how late it is."""
        if part.quiet and not self._repeat(part, member, fetched, now):
            return
        while part.pending and not part.quiet and not self._stopping.is_set():
            given, bad = self._moments.take(part, fetched)
            if self._give(part, given, member) and bad is not None:
                self._bury(part, *bad)
        part.meet_ends(member.ended, member.met, now)
        late = time_of([part.reaches[topic] for topic in self._topics], now)  # replays hold no time up
        if not part.quiet and late is not None and (part.told is None or late >= part.told + TICK):
            self._give(part, [tick(late)], member)

    def _repeat(self, part: Partition, member: Member, fetched: float, now: int) -> bool:
        """Give a new body quietly what the last one was given; say whether it has come as far as that one."""
        later = [record for record in part.pending if record.offset >= part.reaches[record.slot.topic].resume]
        part.pending = [record for record in part.pending if record.offset < part.reaches[record.slot.topic].resume]
        while part.pending:
            given, bad = self._moments.take(part, fetched)
            if not self._give(part, given, member):
                return False
            if bad is not None:
                part.pass_by(bad[0])
        part.pending = later
        part.meet_ends(member.ended, member.met, now)
        if not part.has_repeated():
            return False
        if part.spoken is not None and not self._give(part, [tick(part.spoken)], member):
            return False
        part.quiet = False
        return True

    def _give(self, part: Partition, given: Sequence[Given], member: Member) -> bool:
        """Let the body have moments, and write what it makes of them; say whether it is still there."""
        shown = [one for one in given if not one.passed]
        made, failure = self._loop.run_until_complete(part.actor.give([one.moment for one in shown]))
        writes: list[Write] = []
        finished: list[Given] = []
        for one, events in zip(shown, made, strict=False):
            try:
                writes += [self._outbox.make(part, event, one.moment) for event in events]
            except Permanent as error:
                failure = error
                break
            finished.append(one)
        if not part.quiet:
            self._outbox.emit(writes)
        left = shown[len(finished) :]
        counts: Counter[str] = Counter()
        for one in given:
            if left and one is left[0]:
                break
            counts[part.finish(one)] += 1
            if one.sent is not None and one.record is not None and one.moment.event is not None and not part.quiet:
                self._outbox.tell_ended(one.record, one.sent, one.moment.event, "repeat" if one.passed else "taken")
        self._count(part, counts)
        if not part.quiet and (writes or any(one.record is not None for one in given)):
            self._notes |= part.notes(self._window)
        if failure is None:
            return True
        self._consider(part, left, failure)
        self._begin_again(part, member)
        return False

    def _count(self, part: Partition, counts: Mapping[str, int]) -> None:
        """Count what a body has finished for the first time."""
        if part.quiet:
            return
        if taken := counts.get("taken", 0):
            self._guard = Guard() if self._guard.count else self._guard
            self._see("read", count=taken)
            self._see("taken", count=taken)
        if repeats := counts.get("repeat", 0):
            self._see("repeat", count=repeats)
        if replayed := counts.get("replayed", 0):
            self._guard = Guard() if self._guard.count else self._guard
            self._see("replayed", count=replayed, outcome="done")

    # What a body raises at.

    def _consider(self, part: Partition, left: Sequence[Given], failure: BaseException) -> None:
        """Decide about what a body has raised at the first that is left: it waits, or the event goes dead.

        Raises:
            Halt: there is no event whose fault it could be, or it is not the event but everything.
        """
        culprit = left[0].record if left else None
        if isinstance(failure, Retryable | OSError | TimeoutError | Unavailable) or not left:
            where = "between two events" if culprit is None else f"at offset {culprit.offset} of {culprit.slot.topic}"
            self._see("stuck", detail=f"the body waits {where}: {self._moments.told(culprit, failure)}")
            self._stopping.wait(1.0)
        elif culprit is None:
            raise Halt(f"its body raised when only time had passed, at no event: {type(failure).__name__}: {failure}")
        elif part.quiet:
            part.dead.add(self._moments.tried(culprit))  # its letter was written the first time
        else:
            name = getattr(self._flow.body, "__name__", "the body")
            self._bury(part, culprit, failure if isinstance(failure, TrunklineError) else bug(name, failure))

    def _begin_again(self, part: Partition, member: Member) -> None:
        """Let a new body begin in place of one that has failed, with what that one remembered."""
        self._loop.run_until_complete(part.actor.stop())
        member.rewind(part.begin_again(self._actor(part.number)))

    def _bury(self, part: Partition, record: Record, error: TrunklineError) -> None:
        """Write a dead letter, acknowledged; then the record is behind us. When it cannot be, the process ends.

        Raises:
            Halt: it is not the event but everything.
        """
        verdict = self._guard.consider(of_exception(error), record.key)
        if isinstance(verdict, Halt):
            raise verdict
        message, sent = self._moments.told(record, error), self._moments.sent(record)
        event, kind = self._outbox.bury(record, sent, error, message)
        part.dead.add(self._moments.tried(record))
        part.pass_by(record)
        if sent is not None:
            self._see("replayed", outcome="dead")
            return
        self._see("read")
        self._see("dead", event=event, detail=message, outcome=kind)

    def _halt(self, why: Halt) -> None:
        self.halted = redact(why.told())
        self._see("halted", detail=self.halted)

    def _see(self, what: What, **more: Any) -> None:
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


async def cancel_all() -> None:
    """Cancel what is left in the loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
