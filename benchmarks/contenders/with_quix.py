"""Quix Streams: its batching sink, given what it has at every checkpoint, one partition after the other.

The sink is ours, as there is none for HTTP: the events of a batch run in lanes by key, which is the most that the
sink's contract leaves to do at once.
"""

import asyncio
import threading
from collections import defaultdict
from typing import Any

import aiohttp
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.contenders.wire import BOOTSTRAP, CONCURRENCY, EVENTS_URL, GROUP, TOPIC, body_of


class Api(BatchingSink):
    """Posts a batch, one call in flight per key."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY))

    def write(self, batch: SinkBatch) -> None:
        """Return when all of it is delivered."""
        lanes: defaultdict[Any, list[bytes]] = defaultdict(list)
        for item in batch:
            lanes[item.key].append(item.value)
        asyncio.run_coroutine_threadsafe(self._post(list(lanes.values())), self._loop).result()

    async def _post(self, lanes: list[list[bytes]]) -> None:
        await asyncio.gather(*(self._lane(lane) for lane in lanes))

    async def _lane(self, lane: list[bytes]) -> None:
        for value in lane:
            headers = {"Content-Type": "application/json"}
            async with self._client.post(EVENTS_URL, data=body_of(value), headers=headers) as answer:
                answer.raise_for_status()
                await answer.read()


def main() -> None:
    """Run until killed."""
    app = Application(
        BOOTSTRAP,
        consumer_group=GROUP,
        auto_offset_reset="earliest",
        commit_every=CONCURRENCY * 8,
        commit_interval=1.0,
        loglevel="WARNING",
    )
    app.dataframe(app.topic(TOPIC, value_deserializer="bytes", key_deserializer="bytes")).sink(Api())
    app.run()


if __name__ == "__main__":
    main()
