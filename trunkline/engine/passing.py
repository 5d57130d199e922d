"""Events in steps that wait: many at once in the loop, those of one key one after the other (P2)."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from trunkline.engine.making import Maker, Read, Through
from trunkline.errors import Retryable, TrunklineError, Unavailable
from trunkline.kafka.events import Record
from trunkline.observe import TRACE

WIDTH = 256
"""Events that are in steps which wait at once."""
AGAIN = 1.0
"""Seconds after which a step is tried again that could not reach something."""


class Passing(NamedTuple):
    """Records that are in steps which wait."""

    records: Sequence[Record]
    reads: Sequence[Read | Exception]
    given: "Future[list[Through | None]]"

    def after(self, number: int) -> "Passing | None":
        """Give what is left behind so many records, which all have come through; None when nothing is."""
        if number == len(self.records):
            return None
        left: Future[list[Through | None]] = Future()
        left.set_result(self.given.result()[number:])
        return Passing(self.records[number:], self.reads[number:], left)


class Passage:
    """The steps of one flow, in a loop."""

    def __init__(
        self, maker: Maker, loop: asyncio.AbstractEventLoop, tell_stuck: Callable[[Record, Exception], None]
    ) -> None:
        """Prepare; `tell_stuck` is told of a record whose step could not reach something, and is tried again."""
        self._maker = maker
        self._loop = loop
        self._tell_stuck = tell_stuck

    def begin(self, records: Sequence[Record], beat: Callable[[], None]) -> Passing:
        """Begin to take records through the steps; `beat` is called for each one that is read meanwhile."""
        reads = []
        for record in records:
            beat()
            reads.append(self._read(record))
        coroutine = self._through(records, reads)
        return Passing(records, reads, asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def _read(self, record: Record) -> Read | Exception:
        try:
            return self._maker.read(record)
        except TrunklineError as error:
            return error

    async def _through(self, records: Sequence[Record], reads: Sequence[Read | Exception]) -> list[Through | None]:
        """Take events through the steps: so many at once, those of one key one after the other."""
        lanes: dict[bytes | int, list[int]] = {}
        for number, record in enumerate(records):
            lanes.setdefault(number if record.key is None else record.key, []).append(number)
        found: list[Through | None] = [None] * len(records)
        gate = asyncio.Semaphore(WIDTH)

        async def follow(lane: Sequence[int]) -> None:
            async with gate:
                for number in lane:
                    if isinstance(read := reads[number], Read):
                        found[number] = await self._persist(records[number], read)

        await asyncio.gather(*map(follow, lanes.values()))
        return found

    async def _persist(self, record: Record, read: Read) -> Through:
        """Take an event through the steps, again for as long as one of them cannot reach something."""
        TRACE.set(read.event.traceparent)
        while True:
            try:
                return await self._maker.through(read.event)
            except (Retryable, OSError, TimeoutError, Unavailable) as error:
                self._tell_stuck(record, error)
                after = error.after if isinstance(error, Retryable) else None
                await asyncio.sleep(AGAIN if after is None else max(AGAIN, after))
            except TrunklineError as error:
                return error
