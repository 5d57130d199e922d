"""A behaviour at work: whom it strikes, how it holds a request and in what shape it sends an answer."""

import asyncio
import math
import random
import zlib
from collections.abc import Iterator
from time import monotonic
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Send

from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.call import Call

PART = bytes(64 * 1024)
"""What a large answer is filled up with, again and again."""


class Active:
    """A behaviour until it is healed."""

    def __init__(self, number: int, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.healed = asyncio.Event()
        self._chance = random.Random(number)  # noqa: S311 - a reproducible fault, no secret
        self._second = 0
        self._spared = 0

    def strikes(self, call: Call) -> bool:
        """Tell whether it happens to this request; each request that matches draws once."""
        behaviour = self.behaviour
        return (
            behaviour.name == call.name
            and behaviour.matches(call.path, call.body)
            and not self._spares()
            and self._chance.random() < behaviour.rate
        )

    def _spares(self) -> bool:
        limit = self.behaviour.per_second
        if limit is None:
            return False
        if (second := int(monotonic())) != self._second:
            self._second, self._spared = second, 0
        self._spared += self._spared < limit + 1
        return self._spared <= limit

    async def hold(self, receive: Receive) -> bool:
        """Hold a request whose body was read; False when the client left or the API was healed meanwhile."""
        hang = self.behaviour.hang
        ends: set[asyncio.Future[Any]] = {asyncio.ensure_future(self.healed.wait())}
        if not self.behaviour.deaf:
            ends.add(asyncio.ensure_future(receive()))
        done, waiting = await asyncio.wait(
            ends, timeout=None if hang == "forever" else hang, return_when=asyncio.FIRST_COMPLETED
        )
        for end in waiting:
            end.cancel()
        return not done

    async def pour(self, response: Response, receive: Receive, send: Send) -> None:
        """Send an answer in the shape that the behaviour gives it, until the client leaves or the API is healed."""
        behaviour = self.behaviour
        headers = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
        if behaviour.gzip:
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        ends = {asyncio.ensure_future(receive()), asyncio.ensure_future(self.healed.wait())}
        for part in parts_of(bytes(response.body), behaviour):
            done, _ = await asyncio.wait(ends, timeout=behaviour.drip_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
            if done:
                break
            await send({"type": "http.response.body", "body": part, "more_body": True})
        for end in ends:
            end.cancel()
        await send({"type": "http.response.body"})


def parts_of(body: bytes, behaviour: Behaviour) -> Iterator[bytes]:
    """Give an answer's body in the parts that a behaviour sends it in."""
    if behaviour.size is None:
        yield from (body[number : number + 1] for number in range(len(body)))
        return
    compressor = zlib.compressobj(wbits=31) if behaviour.gzip else None
    left = math.inf if isinstance(behaviour.size, str) else behaviour.size
    part = body
    while left > 0:
        whole = part if left >= len(part) else part[: int(left)]
        left -= len(whole)
        part = PART
        sent = whole if compressor is None else compressor.compress(whole)
        if sent:
            yield sent
    if compressor is not None:
        yield compressor.flush()
