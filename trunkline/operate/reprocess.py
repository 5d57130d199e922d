"""Replay of what steps or an agent could not take: dead letters of one flow, sent again to that flow alone.

The ledger knows deliveries only. Of these flows Kafka knows everything: a topic has an entry of each event that a
replay brought to an end, the replay topic and the group's offsets say what is under way. One replay of a flow is under
way at a time: it sends under a transactional id of the flow, so whoever begins one ends another's, and then sees all
that the other has sent (docs/decisions/0026).
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from trunkline.deadletter import Origin, replayed, sent_again
from trunkline.errors import Halt, TrunklineError
from trunkline.flow.declare import Agent, Bus, Process, dead_letters_of, group_of, identity_of, replay_of
from trunkline.kafka import audit
from trunkline.kafka.audit import Entry
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control, Record
from trunkline.kafka.events import Slot
from trunkline.kafka.topics import replayed_of
from trunkline.kafka.transactions import Transactions, Write
from trunkline.ledger.deliveries import ENDED, State
from trunkline.operate import browse
from trunkline.operate.browse import Dead
from trunkline.operate.replay import Known, Plan, Progress

PACE = 0.1
"""Seconds between two looks at what has come of what was sent; what is due meanwhile is sent together."""
AT_ONCE = 500
"""Letters that are sent together at most."""
GLANCE = 20_000
"""Records of dead letters that are read in about a second."""
SKEW = timedelta(seconds=5)
"""By how much the clocks of those who write records may differ."""

Place = tuple[str, int, int]
"""Where an event first stood: topic, partition and offset."""
Who = tuple[str, str]
"""An event's identity."""


def survey(control: Control, bus: Bus, flow: Process | Agent) -> Known:
    """Read the dead letters of a flow, and what has become of them since.

    Raises:
        UsageError: the flow's dead-letter topic is missing.
        Unavailable: the broker does not answer, or a transaction is not over yet.
    """
    ends = control.ends([dead_letters_of(identity_of(flow))])
    dead = browse.look(control, flow).dead
    done, under_way = standing(control, bus, flow, dead)
    return Known(dead, done, under_way=under_way, ends=ends)


def waiting(control: Control, bus: Bus, flow: Process | Agent) -> int | None:
    """Count the events whose dead letters no replay has brought to an end; None where reading them takes too long.

    Raises:
        Unavailable: the broker does not answer, or a transaction is not over yet.
    """
    letters = [dead_letters_of(identity_of(flow))]
    if sum(control.ends(letters).values()) - sum(control.beginnings(letters).values()) > GLANCE:
        return None
    known = survey(control, bus, flow)
    return sum(one.who not in known.states for one in known.dead)


def standing(
    control: Control, bus: Bus, flow: Process | Agent, dead: Sequence[Dead]
) -> tuple[dict[Who, State], set[Who]]:
    """Say to which end a replay or a person has brought events, and which are under way; dead again is neither.

    Raises:
        Unavailable: a transaction that may have ended some of them is not over yet.
    """
    if not dead:
        return {}, set()
    # In this order: what the group has passed by then has its entry, or none at all.
    replays, committed = replay_of(identity_of(flow)), control.committed(group_of(bus, identity_of(flow)))
    control.settle(replayed_of(bus))
    start = datetime.fromtimestamp(min(one.at for one in dead), UTC) - SKEW
    ended: dict[Place | Who, State] = {}
    for entry in entries(control.read(replayed_of(bus), start=start)):
        if entry.flow == identity_of(flow) and entry.state in ENDED:
            ended |= dict.fromkeys((place_of(entry.origin), (entry.source, entry.event)), State[entry.state])
    known = ((one.who, ended.get(one.origin, ended.get(one.who))) for one in dead)
    done = {who: state for who, state in known if state is not None}
    unread = {slot.partition: offset for slot, (offset, _) in committed.items() if slot.topic == replays}
    waiting = {origin_of(record) for record in control.read(replays, start=unread)}
    return done, {one.who for one in dead if one.origin in waiting} - done.keys()


class Reprocess:
    """One replay of a flow."""

    def __init__(
        self, bus: Bus, flow: Process | Agent, control: Control, cluster: Cluster, *, rate: float, wait: float
    ) -> None:
        """End any other replay of the flow; `rate` is records a second, `wait` how many seconds the last may take.

        Raises:
            Unavailable: the broker does not answer.
        """
        self._flow = flow
        self._letters = dead_letters_of(identity_of(flow))
        self._trail = replayed_of(bus)
        self._control = control
        self._rate = rate
        self._wait = wait
        self._transactions = taking_over(bus, flow, cluster)
        self._ahead = browse.Ahead(control, self._letters)
        self._ended: dict[Place, Entry] = {}
        self._read: Mapping[Slot, int] = {}

    def run(self, planned: Plan, tell: Callable[[Progress], None]) -> Progress:
        """Send the planned letters, and wait until each has come to an end.

        `tell` is called whenever something may have moved. A send that fails, time that runs out, another replay and
        Ctrl-C end the run early; what was sent by then is under way, and the flow takes it.
        """
        progress = Progress(f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}", list(planned.send))
        self._read = self._control.ends([self._trail])
        try:
            self._drive(progress, planned.known.ends, tell)
        except KeyboardInterrupt:
            progress.trouble = "interrupted"
        except Halt:
            progress.trouble = "another replay of this flow has begun, or a discard: what is left waits for the next"
        except TrunklineError as error:
            progress.trouble = str(error)
        return progress

    def _drive(self, progress: Progress, ends: Mapping[Slot, int], tell: Callable[[Progress], None]) -> None:
        many = max(1, min(AT_ONCE, int(self._rate * PACE)))
        due = sent = time.monotonic()
        while True:
            if progress.unsent and time.monotonic() >= due:
                self._send(progress, many)
                sent = time.monotonic()
                due = max(due + many / self._rate, sent)
            self._settle(progress, ends)
            tell(progress)
            if not (progress.unsent or progress.open):
                return
            if not progress.unsent and time.monotonic() > sent + self._wait:
                progress.trouble = f"after {self._wait:g} s"
                return
            time.sleep(min(PACE, max(0.0, due - time.monotonic())) if progress.unsent else PACE)

    def _send(self, progress: Progress, many: int) -> None:
        """Send so many letters together, in their order.

        Raises:
            Halt: another replay of the flow has begun.
            Unavailable, Refused: they were not sent, as far as anybody can tell; or the value of one is gone.
        """
        topic = replay_of(identity_of(self._flow))
        writes = []
        for dead in progress.unsent[:many]:
            letter = self._ahead.open(dead, progress.unsent)
            value, headers = browse.value_of(self._control, letter), [*replayed(letter.record.headers, progress.run)]
            writes.append(Write(topic, dead.raw_key, value, headers, dead.origin_partition))
        self._transactions.begin()
        try:
            self._transactions.write(writes)
            self._transactions.flush()
            self._transactions.commit()
        except TrunklineError:
            self._transactions.abort()
            raise
        progress.open += progress.unsent[:many]
        progress.unsent = progress.unsent[many:]

    def _settle(self, progress: Progress, ends: Mapping[Slot, int]) -> None:
        """Find out what has come of what was sent: the audit trail says it."""
        now = self._control.ends([self._trail])
        if now == self._read:
            return
        start = {slot.partition: offset for slot, offset in self._read.items()}
        for entry in entries(self._control.read(self._trail, start=start)):
            if entry.run == progress.run:
                self._ended[place_of(entry.origin)] = entry
        self._read = now
        open_: list[Dead] = []
        died: list[Dead] = []
        for dead in progress.open:
            if (ended := self._ended.get(dead.origin)) is None:
                open_.append(dead)
            else:
                (died if ended.state == State.DEAD.name else progress.delivered).append(dead)
        progress.open = open_
        if died:
            self._control.settle(self._letters)
            start = {slot.partition: offset for slot, offset in ends.items()}
            newer = {one.origin: one for one in browse.gather(self._control.read(self._letters, start=start)).dead}
            progress.dead += [newer.get(dead.origin, dead) for dead in died]


def taking_over(bus: Bus, flow: Process | Agent, cluster: Cluster) -> Transactions:
    """End any replay of a flow, and give what writes in its place.

    Raises:
        Unavailable: the broker does not answer.
    """
    return Transactions(cluster, f"{group_of(bus, identity_of(flow))}.replay")


def entries(records: Iterable[Record]) -> Iterable[Entry]:
    """Read the entries of the audit trail, and pass over what is none."""
    return (entry for record in records if (entry := audit.entry_of(record.value)) is not None)


def place_of(origin: Origin) -> Place:
    """Give a place as letters have it."""
    return (origin.topic, origin.partition, origin.offset)


def origin_of(record: Record) -> Place:
    """Say where the event of a record of a replay topic first stood."""
    return place_of(sent_again(record.headers, Origin(record.topic, record.partition, record.offset))[0])
