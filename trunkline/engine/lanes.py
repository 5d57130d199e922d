"""Who may call next: one FIFO per key, at most one call in flight per key, at most `width` over all. Sans-I/O.

The head of a lane goes through waiting → calling → settling; it leaves when its outcome is durable, and only then
may the next of its key begin (D3). A head that failed waits outside: it holds its lane but none of the width.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

Key = Hashable


class Lanes(Generic[T]):
    """The queues of one sink in one worker."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._lanes: dict[Key, deque[T]] = {}
        self._ready: deque[Key] = deque()
        self.calling = 0
        """Calls in flight."""
        self.held = 0
        """Events in the lanes, heads included."""

    def add(self, key: Key, item: T) -> None:
        """Put an event at the end of its lane."""
        self.held += 1
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque((item,))
            self._ready.append(key)
        else:
            lane.append(item)

    def start(self) -> Iterator[T]:
        """Yield the heads that may be called now, longest waiting first; each counts as calling."""
        while self._ready and self.calling < self._width:
            self.calling += 1
            yield self._lanes[self._ready.popleft()][0]

    def answered(self) -> None:
        """Note that one call has ended: its width is free, its lane is not."""
        self.calling -= 1

    def again(self, key: Key) -> None:
        """Let the head of a lane, which had been answered, be called once more."""
        self._ready.append(key)

    def finish(self, key: Key) -> None:
        """Take the head of a lane away, its outcome durable; the next of its key becomes ready."""
        self.held -= 1
        lane = self._lanes[key]
        lane.popleft()
        if lane:
            self._ready.append(key)
        else:
            del self._lanes[key]

    def discard(self, unwanted: Callable[[T], bool], busy: Callable[[T], bool]) -> None:
        """Forget the events that are `unwanted`, except heads that are `busy` with a call or an outcome."""
        for key, lane in list(self._lanes.items()):
            head = lane[0]
            held = busy(head)
            kept = [item for number, item in enumerate(lane) if (number == 0 and held) or not unwanted(item)]
            self.held -= len(lane) - len(kept)
            if not kept:
                del self._lanes[key]
            elif len(kept) < len(lane):
                lane.clear()
                lane.extend(kept)
                if not held and kept[0] is not head:
                    self._ready.append(key)
        ready = [key for key in dict.fromkeys(self._ready) if key in self._lanes and not busy(self._lanes[key][0])]
        self._ready = deque(ready)

    def __len__(self) -> int:
        """Lanes that hold anything."""
        return len(self._lanes)
