"""Events whose keys wait while all others go on, in a flow that commits offsets. Pure: the clock is an argument.

What is committed of a partition is the first offset that is not done, and beside it a note of which later ones are not
done either. So whatever is done is done once, whoever goes on there: it skips what the note does not name.
"""

import base64
import binascii
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from trunkline.kafka.events import Record, Slot

MOST = 900
"""Records of a partition that are held back at most: their note has to fit into the 4,096 characters that brokers keep
with an offset (offset.metadata.max.bytes)."""


@dataclass(slots=True)
class Part:
    """One partition."""

    reached: int = 0
    """Everything before is done, but what is named."""
    undone: dict[int, None] = field(default_factory=dict)
    """Offsets before `reached` that are not done, in their order."""

    @property
    def next(self) -> int:
        """The first offset that is not done."""
        return next(iter(self.undone), self.reached)


class Held:
    """The records that a flow holds back."""

    def __init__(self) -> None:
        self._parts: dict[Slot, Part] = {}
        self._records: dict[tuple[Slot, int], Record] = {}
        self._since: dict[tuple[Slot, int], float] = {}
        self._until: dict[tuple[Slot, int], float] = {}
        self._keys: set[bytes] = set()

    def begin(self, slot: Slot, offset: int, note: str) -> int:
        """Take a partition over whose committed offset has this note; give the offset where to begin."""
        self._parts[slot] = taken(offset, note)
        return offset

    def drop(self, slots: Collection[Slot]) -> None:
        """Give partitions up."""
        for slot in slots:
            self._parts.pop(slot, None)
        for place in [place for place in self._records if place[0] in slots]:
            del self._records[place]
        self._since = {place: since for place, since in self._since.items() if place[0] not in slots}
        self._until = {place: until for place, until in self._until.items() if place[0] not in slots}
        self._keys = {record.key for record in self._records.values() if record.key is not None}

    def is_done(self, record: Record) -> bool:
        """Say whether a record that was fetched is done already."""
        part = self._parts.get(record.slot)
        return part is not None and record.offset < part.reached and record.offset not in part.undone

    def holds(self, key: bytes | None) -> bool:
        """Say whether an earlier record of this key is held back, so that a later one has to be too."""
        return key is not None and key in self._keys

    def hold(self, record: Record, now: float) -> None:
        """Hold a record back until it is released."""
        self._reach(record)
        self._since.setdefault((record.slot, record.offset), now)
        self._parts[record.slot].undone.setdefault(record.offset)
        self._records[record.slot, record.offset] = record
        if record.key is not None:
            self._keys.add(record.key)

    def patient(self, record: Record, now: float, seconds: float) -> bool:
        """Say whether a record may wait on: so many seconds from when it was first held back, or from now."""
        place = record.slot, record.offset
        until = self._until[place] = self._since.get(place, now) + seconds
        return now < until

    def is_due(self, now: float) -> bool:
        """Say whether a record that is held back may wait no longer."""
        return any(self._until.get(place, math.inf) <= now for place in self._records)

    def done(self, record: Record) -> None:
        """Take note that a record is done, in a transaction that is yet to be."""
        self._reach(record)
        self._parts[record.slot].undone.pop(record.offset, None)
        self._since.pop((record.slot, record.offset), None)
        self._until.pop((record.slot, record.offset), None)

    def release(self) -> list[Record]:
        """Give all records back, to be tried again, in their order; they stay undone."""
        records = [self._records[place] for place in sorted(self._records)]
        self._records.clear()
        self._keys.clear()
        return records

    def first(self) -> Iterator[Record]:
        """Yield the first record of each partition that is held back."""
        seen: set[Slot] = set()
        for place in sorted(self._records):
            if place[0] not in seen:
                seen.add(place[0])
                yield self._records[place]

    def places(self, slots: Collection[Slot]) -> dict[Slot, tuple[int, str]]:
        """Give what to commit of partitions: the offset and the note, "" when nothing is held back."""
        return {slot: (part.next, note_of(part)) for slot in slots if (part := self._parts.get(slot)) is not None}

    @property
    def full(self) -> bool:
        """Whether no more of some partition can be held back."""
        return any(len(part.undone) >= MOST for part in self._parts.values())

    def __bool__(self) -> bool:
        return bool(self._records)

    def _reach(self, record: Record) -> None:
        part = self._parts.setdefault(record.slot, Part(record.offset))
        part.reached = max(part.reached, record.offset + 1)


def note_of(part: Part) -> str:
    """Write which offsets are not done: the steps from one to the next, and to the first that was not reached."""
    if not part.undone:
        return ""
    raw = bytearray()
    last = part.next
    for offset in (*sorted(part.undone), part.reached):
        step = offset - last
        while step > 127:
            raw.append(step & 127 | 128)
            step >>= 7
        raw.append(step)
        last = offset
    return base64.b85encode(raw).decode()


def taken(offset: int, note: str) -> Part:
    """Read a note; one that is none means that nothing from `offset` on is done."""
    try:
        raw = base64.b85decode(note)
    except (ValueError, binascii.Error):
        raw = b""
    if not raw.startswith(b"\0"):  # another's: the first step is none
        return Part(offset)
    steps, step, shift = [], 0, 0
    for byte in raw:
        step |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            steps.append(step)
            step, shift = 0, 0
    places = [offset := offset + one for one in steps]
    return Part(places[-1], dict.fromkeys(places[:-1])) if places else Part(offset)
