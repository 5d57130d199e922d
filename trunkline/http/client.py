"""`httpx` for sinks that make their calls themselves: the same way to the target as every other call takes."""

from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import MappingProxyType

import httpx

from trunkline.errors import Permanent
from trunkline.http.transport import READ, Transport
from trunkline.requests import sendable

OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "user-agent"})
"""Headers that the transport writes itself."""
NOTHING: Mapping[str, None] = MappingProxyType({})
DECODED = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers of an answer that speak of its body as it came, not as it is given."""


class Way(httpx.AsyncBaseTransport):
    """Lets httpx call one target, and nothing else."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._url = httpx.URL(transport.url)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make one call, with the target's credentials, deadline and limits.

        A request's own `timeout` shortens the deadline over its whole call; of several parts it is the one for reading.
        The answer is complete: at most 1 MiB of its body, and `extensions["whole"]` says whether that is all of it.

        Raises:
            Retryable, Unknown, Permanent, NoToken, Halt: as `Transport.send`, in place of what httpx would raise.
        """
        path = self._below(request.url)
        content = await request.aread()
        headers = sendable({name: value for name, value in request.headers.items() if name.lower() not in OURS})
        seconds = request.extensions.get("timeout", NOTHING).get("read")
        answer = await self._transport.call(request.method, path, headers, content or None, kept=READ, seconds=seconds)
        left = {name: value for name, value in answer.headers.items() if name not in DECODED}
        return httpx.Response(answer.status, headers=left, content=answer.body, extensions={"whole": answer.whole})

    def _below(self, url: httpx.URL) -> str:
        """Give the path and query of an address as they follow the target's own.

        Raises:
            Permanent: it is not the target's.
        """
        target = self._url
        path, base = url.raw_path.decode("ascii"), target.raw_path.decode("ascii").rstrip("/")
        if (url.scheme, url.host, url.port) != (target.scheme, target.host, target.port) or not path.startswith(
            f"{base}/"
        ):
            raise Permanent("the request cannot be made: its address is not the target's")
        return path.removeprefix(base)


def client_of(transport: Transport) -> httpx.AsyncClient:
    """Give a client whose calls, to paths below the target's address, go the way of `transport`; it has no cookies."""
    return httpx.AsyncClient(
        base_url=transport.url,
        transport=Way(transport),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=None,  # noqa: S113 - the transport has a deadline
        trust_env=False,
    )
