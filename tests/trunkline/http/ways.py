"""The two ways to a target: directly, as the bus calls it, and by httpx, as sinks do that call it themselves."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from trunkline.http.client import client_of
from trunkline.http.transport import READ, Transport
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response

KEY = "abcdefghijklmnopqrstuvwxyz234567"
STANDARD = Idempotency()
Way = Callable[[Transport, Request], Awaitable[Response]]


async def first(transport: Transport, request: Request) -> Response:
    """Make the first call under a key."""
    return await transport.send(request, KEY, STANDARD)


async def again(transport: Transport, request: Request) -> Response:
    """Make a later call under a key."""
    return await transport.send(request, KEY, STANDARD, again=True)


async def by_httpx(transport: Transport, request: Request) -> Response:
    """Make a call as a hand-written sink does."""
    async with client_of(transport) as client:
        got: httpx.Response = await client.request(
            request.method, request.path, headers=dict(request.headers), json=request.json
        )
        whole = got.extensions["whole"]
        return Response(got.status_code, dict(got.headers), got.content, request.method, whole=whole)


KEPT_BY: dict[Way, int] = {first: 64 * 1024, again: 64 * 1024, by_httpx: READ}
"""Bytes of a body that a way keeps."""

each_way = pytest.mark.parametrize("way", [first, again, by_httpx])
careful_ways = pytest.mark.parametrize("way", [again, by_httpx])
