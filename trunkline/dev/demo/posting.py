"""The sender: chains of events posted at a steady rate, each again while nobody answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport

from trunkline.adapters import Source

AT_ONCE = 64
"""Requests of the sender that wait for an answer at most."""
POSTS = 3
"""Times that an event is posted while nobody answers, `PAUSE` seconds apart."""
PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Posted:
    """What a source posts."""

    source: str
    body: bytes


async def post(
    gateway: str,
    sources: Mapping[str, Source],
    chains: Sequence[Sequence[Posted]],
    rate: float,
    answers: Mapping[str, Counter[str]],
    tell: Callable[[int], None],
) -> Counter[str]:
    """Post chains of bodies, each signed, `rate` a second and at most 64 at once; count what is answered, by outcome.

    Of a chain each is posted when the one before has been taken. What has no answer is posted again under its id, three
    times in all, as senders of webhooks do; the posts that had none are given back, counted by what failed.
    """
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(AT_ONCE)
    unanswered: Counter[str] = Counter()
    done = 0

    async def is_taken(client: httpx.AsyncClient, number: int, one: Posted) -> bool:
        counts = answers[one.source]
        headers = sources[one.source].verify.sign(f"demo_{number}_{time.time_ns()}", one.body)
        for left in reversed(range(POSTS)):
            try:
                answer = await client.post(f"/in/{one.source}", content=one.body, headers=headers)
                break
            except httpx.TransportError as error:
                unanswered[type(error).__name__] += 1
                if not left:
                    counts["unanswered"] += 1
                    return False
                await asyncio.sleep(PAUSE)
        if answer.is_success:
            counts.update(event["outcome"] for event in answer.json()["events"])
        else:
            counts["rejected"] += 1
        return answer.is_success

    async def each(client: httpx.AsyncClient, number: int, chain: Sequence[Posted]) -> None:
        nonlocal done
        try:
            for one in chain:
                if not await is_taken(client, number, one):
                    break
        finally:
            gate.release()
        done += 1
        tell(done)

    # With its own transport httpx takes more of the machine for posting than the bus takes for the events.
    transport = HttpxTransport(ClientBuilder().no_proxy().build())
    async with (
        httpx.AsyncClient(base_url=gateway, transport=transport, timeout=30) as client,
        asyncio.TaskGroup() as group,
    ):
        began = loop.time()
        for number, chain in enumerate(chains):
            if rate:
                await asyncio.sleep(began + number / rate - loop.time())
            await gate.acquire()
            group.create_task(each(client, number, chain))
    return unanswered
