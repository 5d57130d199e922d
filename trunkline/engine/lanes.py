"""Who may be called next: one FIFO per key, at most one call in flight per key, at most `width` over all. Sans-I/O.

A head leaves its lane when its outcome is durable, and only then may the next of its key begin (D3). A head that
failed waits outside: it holds its lane but none of the width. A replay goes before what was not yet tried.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trunkline.engine.delivery import Delivery, Key, Stage
from trunkline.kafka.events import Slot


@dataclass(slots=True)
class Lane:
    """The deliveries of one key, and what they weigh."""

    queue: list[Delivery]
    """Mostly of one: a deque takes ten times the memory."""
    bytes: int = 0
    filled: Slot | None = None
    """The partition whose records filled it up to its cap; it pauses until the lane is half empty."""


class Lanes:
    """The queues of one sink in one worker."""

    def __init__(self, width: int, *, events: int, size: int) -> None:
        """Let `width` calls be in flight; a lane is full at so many `events` or at `size` bytes (D6)."""
        self._width = width
        self._events = events
        self._size = size
        self._lanes: dict[Key, Lane] = {}
        self._ready: deque[Key] = deque()
        self._blocked: set[Key] = set()
        self._filled: Counter[Slot] = Counter()
        self.calling = 0
        """Calls in flight."""

    def add(self, delivery: Delivery) -> None:
        """Put a delivery at the end of its lane; a replay before everything that was not yet tried."""
        lane = self._lanes.get(delivery.lane)
        if lane is None:
            self._lanes[delivery.lane] = lane = Lane([delivery], delivery.size)
            self._make_ready(delivery.lane, lane)
            return
        self._insert(lane, delivery)
        full = len(lane.queue) >= self._events or lane.bytes >= self._size
        if lane.filled is None and full and len(lane.queue) > 1 and not delivery.run:
            lane.filled = delivery.record.slot
            self._filled[lane.filled] += 1

    def supplant(self, waiting: Delivery, replay: Delivery) -> None:
        """Put a replay into the lane instead of an untried copy of the same event that waits there."""
        lane = self._lanes[waiting.lane]
        lane.queue.remove(waiting)
        lane.bytes -= waiting.size
        self._insert(lane, replay)

    def _insert(self, lane: Lane, delivery: Delivery) -> None:
        lane.bytes += delivery.size
        place = len(lane.queue)
        if delivery.run:
            place = next((n for n, other in enumerate(lane.queue) if untried(other)), place)
        lane.queue.insert(place, delivery)
        if place == 0 and delivery.lane in self._blocked and delivery.lane not in self._ready:
            self._ready.append(delivery.lane)

    def start(self) -> Iterator[Delivery]:
        """Yield the heads that may be called now, longest waiting first; each counts as calling."""
        while self._ready and self.calling < self._width:
            self.calling += 1
            yield self._lanes[self._ready.popleft()].queue[0]

    def answered(self) -> None:
        """Note that one call has ended: its width is free, its lane is not."""
        self.calling -= 1

    @property
    def crowded(self) -> bool:
        """Whether so many lanes could begin and may not that one more would wait for long."""
        return self.calling >= self._width and len(self._ready) >= self._width

    def followed(self, key: Key) -> bool:
        """Say whether something waits behind the head of a lane."""
        return len(self._lanes[key].queue) > 1

    def again(self, key: Key) -> None:
        """Let the head of a lane be called once more."""
        self._ready.append(key)

    def withdraw(self, key: Key) -> None:
        """Let a lane that may begin wait: its head is dealt with in another way."""
        if key in self._ready:
            self._ready.remove(key)

    def finish(self, key: Key) -> None:
        """Take the head of a lane away, its outcome durable; the next of its key becomes ready."""
        lane = self._lanes[key]
        lane.bytes -= lane.queue.pop(0).size
        if lane.filled is not None and 2 * len(lane.queue) <= self._events and 2 * lane.bytes <= self._size:
            self._filled[lane.filled] -= 1
            lane.filled = None
        if lane.queue:
            self._make_ready(key, lane)
        else:
            del self._lanes[key]

    def replace(self, delivery: Delivery) -> None:
        """Put an untried delivery in the place of the head of its lane, which has gone, but behind replays."""
        lane = self._lanes[delivery.lane]
        lane.bytes -= lane.queue.pop(0).size
        place = 0 if delivery.run else next((n for n, one in enumerate(lane.queue) if not one.run), len(lane.queue))
        lane.queue.insert(place, delivery)
        lane.bytes += delivery.size
        self._make_ready(delivery.lane, lane)

    def block(self, key: Key) -> None:
        """Let nothing but replays of a key begin (D12)."""
        self._blocked.add(key)
        lane = self._lanes.get(key)
        if lane is not None and untried(lane.queue[0]):
            self.withdraw(key)

    def unblock(self, key: Key) -> None:
        """Let a blocked key go on."""
        if key not in self._blocked:
            return
        self._blocked.discard(key)
        lane = self._lanes.get(key)
        if lane is not None and untried(lane.queue[0]):
            self._ready.append(key)

    def discard(self, unwanted: Callable[[Delivery], bool]) -> None:
        """Forget the deliveries that are `unwanted`, except busy heads."""
        for key, lane in list(self._lanes.items()):
            head = lane.queue[0]
            kept = [item for item in lane.queue if item.busy or not unwanted(item)]
            if len(kept) == len(lane.queue):
                continue
            if lane.filled is not None:
                self._filled[lane.filled] -= 1
                lane.filled = None
            if not kept:
                del self._lanes[key]
                continue
            lane.queue = kept
            lane.bytes = sum(item.size for item in kept)
            if kept[0] is not head:
                self._make_ready(key, lane)
        self._ready = deque(key for key in dict.fromkeys(self._ready) if self._may_start(key))

    def full(self, slot: Slot) -> bool:
        """Say whether a lane has been filled up by a partition's records."""
        return self._filled[slot] > 0

    def filled(self, slot: Slot) -> Key | None:
        """Name a lane that a partition's records have filled up."""
        if not self._filled[slot]:
            return None
        return next((key for key, lane in self._lanes.copy().items() if lane.filled == slot), None)

    def head(self, key: Key) -> Delivery:
        """Give the first of a lane."""
        return self._lanes[key].queue[0]

    def _make_ready(self, key: Key, lane: Lane) -> None:
        if key not in self._blocked or lane.queue[0].run:
            self._ready.append(key)

    def _may_start(self, key: Key) -> bool:
        lane = self._lanes.get(key)
        return lane is not None and lane.queue[0].stage is Stage.QUEUED

    def __len__(self) -> int:
        """Lanes that hold anything."""
        return len(self._lanes)


def untried(delivery: Delivery) -> bool:
    """Say whether a delivery of the sink's own topic stands where it was put."""
    return delivery.stage is Stage.QUEUED and not delivery.attempts and not delivery.run
