"""A loop without safety: consume, decode, call, one call in flight per key. It commits nothing and records nothing."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from confluent_kafka import Consumer

from benchmarks.contenders.wire import BOOTSTRAP, CONCURRENCY, GROUP, TOPIC, body_of

Call = Callable[[str, bytes], Awaitable[None]]
"""Sends a body under an idempotency key."""


async def deliver(call: Call) -> None:
    """Deliver the topic for ever."""
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([TOPIC])
    lanes: dict[bytes, deque[tuple[str, bytes]]] = {}
    tasks: set[asyncio.Task[None]] = set()
    room = asyncio.Event()
    held = 0

    async def run(key: bytes, lane: deque[tuple[str, bytes]]) -> None:
        nonlocal held
        while lane:
            await call(*lane[0])
            lane.popleft()
            held -= 1
        del lanes[key]
        room.set()

    while True:
        if held >= 8 * CONCURRENCY or len(lanes) >= CONCURRENCY:
            room.clear()
            await room.wait()
            continue
        messages = consumer.consume(min(500, 8 * CONCURRENCY - held, CONCURRENCY - len(lanes)), 0)
        if not messages:
            await asyncio.sleep(0.002)
        for message in messages:
            key, value = message.key(), message.value()
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            held += 1
            item = (f"{message.partition()}-{message.offset()}", body_of(value))
            if key in lanes:
                lanes[key].append(item)
                continue
            lanes[key] = deque([item])
            task = asyncio.ensure_future(run(key, lanes[key]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0)
