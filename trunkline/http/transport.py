"""Calls to one target: only where they may go, bounded, never redirected, with a deadline over the whole call."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlencode, urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PoolTimeoutError, PyreqwestError
from pyreqwest.http import Url
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response as HttpResponse
from pyreqwest.response import ResponseBodyReader

from trunkline.errors import Halt, Permanent, Retryable, Unknown
from trunkline.flow.declare import Tls
from trunkline.http import certificates
from trunkline.http.guard import Guard, resolve
from trunkline.http.pool import PATIENCE, Pool, Resolve
from trunkline.http.proofs import NO_SIGNATURE, NoToken, Proof, Signature
from trunkline.observe import TRACE
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response

T = TypeVar("T")

DEADLINE = 20.0
"""Seconds from the first byte of a call to the last of its answer."""
KEPT = 64 * 1024
"""Bytes of an answer's body that are kept."""
READ = 1024 * 1024
"""Bytes of an answer's body that are read, decompressed: the connection is closed on the rest."""
IDLE = 4.0
"""Seconds for which a connection is kept without a call. Servers close it after 5 and more: not just as one is sent."""
SILENCE = 5.0
"""Seconds without a word on an HTTP/2 connection with calls under way, after which it must show that it lives."""
CONNECTING = "client error (Connect)"
"""What the HTTP client names as a cause when a call ended while it was connecting."""
SENDING = "client error (SendRequest)"
"""What it names when a call ended before its status came."""
UNTOUCHED = re.compile("stream error received: refused stream|connection error received: ")
"""How it begins to say that an HTTP/2 server has not begun with a request and never will (RFC 9113 §8.7).

The server has refused its stream, or said goodbye (GOAWAY) and named an earlier one as the last."""
LOCKED_OUT = "tunnel error: proxy authorization required"
"""What it names when a proxy has answered 407."""
DISTRUST = "invalid peer certificate: "
"""How it begins to say what is wrong with the target's certificate."""
PLAIN = re.compile(
    r"(operation timed out|connection closed before message completed|end of file before message length reached|"
    r"message head is too large|tunnel error: [a-z ]+|[A-Z][A-Za-z ]+)(?= \(os error|$)"
)
"""The innermost causes that are told as they are: none of them holds anything of the call."""
NEGLIGIBLE = 0.01
"""Seconds of its deadline that a call may have used before its request is written, without being cut for it."""
ODD = re.compile(r"[\x00-\x1f\x7f\\#.%]")
"""What a path has in it that may be ASTRAY, found sooner."""
ASTRAY = re.compile(r"[\x00-\x1f\x7f#]|^[^?]*(?:\\|/(?:\.|%2e){1,2}(?:[/?]|$))", re.IGNORECASE)
"""What in a path would be left out or resolved away on the way, so that another address would be called."""


ANNOUNCING = frozenset({"deprecation", "sunset", "warning"})
"""Headers of an answer with which a target speaks of its API (`http.notices`)."""


class Transport:
    """The way to one target; an async context manager. Every call of every sink that names the target takes it."""

    def __init__(
        self,
        url: str,
        proof: Proof,
        *,
        guard: Guard,
        connections: int,
        tls: Tls | None = None,
        proxy: str | None = None,
        deadline: float = DEADLINE,
        resolve: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare calls below `url`; nothing of what `proof` adds is ever shown, `deadline` is in seconds.

        Calls go through `proxy` when one is given, never because the environment names one: then it is the proxy's
        address that `guard` checks, and the proxy that decides what it reaches.

        Raises:
            UsageError: a certificate or key is not set, or is none.
            ValueError: a header cannot be sent; the message does not show it.
        """
        place = Url.parse(url)
        self._url = str(place).rstrip("/")
        self.url = str(place.with_username("").with_password(None)).rstrip("/")
        """The address below which everything is called, as the HTTP client reads it, without a password."""
        self._query = urlencode(proof.query)
        self._proof = proof
        self._deadline = deadline
        self._clock = clock
        self.noticed: Callable[[Mapping[str, str]], None] = lambda _: None
        """Called with the headers of an answer that announces something of the target's API (`http.notices`)."""
        self.lacking: Callable[[NoToken], None] = lambda _: None
        """Called when there are no credentials to call the target with."""
        pem = certificates.read(tls)

        def build() -> ClientBuilder:
            builder = (
                ClientBuilder()
                .default_headers(dict(proof.fixed))
                .user_agent("trunkline")
                .follow_redirects(False)
                .referer(False)
                .no_proxy()
                .http2(True)
                .min_tls_version("TLSv1.2")
                .timeout(timedelta(seconds=deadline))
                .connect_timeout(timedelta(seconds=PATIENCE))
                .pool_max_idle_per_host(connections)
                .pool_idle_timeout(timedelta(seconds=IDLE))
                .http2_keep_alive_interval(timedelta(seconds=SILENCE))
                .http2_keep_alive_timeout(timedelta(seconds=2 * SILENCE))
            )
            if proxy is not None:
                builder = builder.proxy(ProxyBuilder.all(proxy))
            for authority in pem.authorities:
                builder = builder.add_root_certificate_pem(authority)
            return builder if pem.identity is None else builder.identity_pem(pem.identity)

        try:
            build()
        except ValueError:
            raise ValueError("a header cannot be sent") from None
        self._pool = Pool(place if proxy is None else Url.parse(proxy), guard, build, resolve, clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()
        await self._proof.close()

    def send(
        self, request: Request, key: str, under: Idempotency | None, *, again: bool = False
    ) -> Coroutine[Any, Any, Response]:
        """Make one call, with the idempotency key as the target takes it; without when `under` is None.

        Once the target has named a status, that status is the answer: a body that is too long, too slow for the
        deadline, broken off or wrongly compressed is cut where it failed, and `Response.whole` is False. A call under
        a key is quicker and does without that: what breaks in the body is Unknown then, and `again` is for the call
        that follows.

        Raises:
            Retryable: no connection, or the target sent it back: it has not acted on it.
            Unknown: sent, and no status came back: the target may have acted on it.
            Permanent: no such request can be made.
            NoToken: there are no credentials to call with now, so the target has not seen it.
            Halt: nothing may be called, or nothing can be until a person has acted.
        """
        content, headers = request.encode()
        if under is not None and under.header is not None:  # it replaces the sink's own header of that name
            headers[under.header.lower()] = under.written(key)
        return self.call(request.method, request.path, headers, content, careful=again or under is None)

    async def call(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: bytes | None,
        *,
        careful: bool = True,
        kept: int = KEPT,
        seconds: float | None = None,
    ) -> Response:
        """Make one call to a path below the target's address; the names of `headers`, which it keeps, in lower case.

        The answer has the headers that are text, of several with one name a list, and `kept` bytes of the body.

        With `careful` a body that breaks is cut there, without it the outcome is Unknown. All that one call takes, a
        token, a second address, the same once more with a new token, has the one deadline, or fewer `seconds`. Until
        then the HTTP client stays with the target, even when whoever waits for the answer is cancelled.

        Raises:
            Retryable, Unknown, Permanent, NoToken, Halt: as `send`.
        """
        if path[:1] != "/" or (ODD.search(path) and ASTRAY.search(path)):
            raise Permanent("the request cannot be made: its path would not be called as it is written")
        if self._query:
            path += f"{'&' if '?' in path else '?'}{self._query}"
        if (trace := TRACE.get()) is not None:
            headers["traceparent"] = trace
        now = self._clock()
        ends = now + (self._deadline if seconds is None else min(self._deadline, seconds))
        tried, renewed = 0, False
        while True:
            if (client := self._pool.ready(now)) is None:
                client = await self._client(ends)
                now = self._clock()
            sent, signature = headers, NO_SIGNATURE
            if self._proof.signs:
                signature = self._proof.ready() or await self._sign(ends, method, path, headers, content or b"")
                sent = {**headers, **signature.headers}
                now = self._clock()
            call = self._build(client, ends - now, method, path, sent, content, careful=careful)
            try:
                answer = await answered(call, method, kept, careful=careful)
            except PyreqwestError as error:
                if untouched(error):
                    raise Retryable("the target has sent the request back and not begun with it") from None
                if not unsent(error):
                    raise Unknown(f"no answer from the target: {reason(error)}") from None
                if LOCKED_OUT in causes(error):
                    told = "the proxy of the target does not accept the user and password in its address"
                    raise Halt(f"{told}. Check the setting that names the proxy.") from None
                tried += 1
                if tried >= self._pool.leave(client):
                    raise Retryable(f"no connection to the target: {reason(error)}") from None
                now = self._clock()
                continue
            said = answer.headers
            if not ANNOUNCING.isdisjoint(said):
                self.noticed(said)
            if answer.status != 401 or renewed or not await self._asked(ends, self._proof.refused(signature)):
                return answer
            now, renewed = self._clock(), True

    async def _client(self, ends: float) -> Client:
        """Wait for a client."""
        try:
            async with asyncio.timeout(ends - self._clock()):
                return await self._pool.client()
        except TimeoutError:
            raise Retryable("no connection to the target: its name has no address in time") from None

    async def _sign(self, ends: float, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Signature:
        """Ask for what proves a call."""
        try:
            line = Url.parse(self._url + path)
        except ValueError as error:
            raise Permanent(f"the request cannot be made: {reason(error)}") from None
        query = "" if line.query_string is None else f"?{line.query_string}"
        return await self._asked(ends, self._proof.sign(method, line.path + query, headers, body))

    async def _asked(self, ends: float, answer: Awaitable[T]) -> T:
        """Wait for what the proof says."""
        try:
            async with asyncio.timeout(ends - self._clock()):
                return await answer
        except TimeoutError:
            lacking = NoToken("there are no credentials in time", after=1.0)
        except NoToken as error:
            lacking = error
        self.lacking(lacking)
        raise lacking

    def _build(
        self,
        client: Client,
        left: float,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        *,
        careful: bool,
    ) -> StreamRequest:
        """Write a request that has so many seconds left."""
        if left <= 0:
            raise Retryable("no time was left to call the target")
        try:
            builder = client.request(method, self._url + path)
            if content is not None:
                builder = builder.body_bytes(content)
            if careful:  # nothing of the answer's body is read ahead: an error in it must not hide the status
                builder = builder.streamed_read_buffer_limit(0)
            if left < self._deadline - NEGLIGIBLE:
                builder = builder.timeout(timedelta(seconds=left))
            return builder.headers(headers).build_streamed()
        except (BuilderError, TypeError, ValueError) as error:
            raise Permanent(f"the request cannot be made: {reason(error)}") from None


async def answered(call: StreamRequest, method: str, kept: int, *, careful: bool) -> Response:
    """Send a request and read what is answered, so that the connection can be used again."""
    got = await call.__aenter__()
    reader, begun, ended = got.body_reader, b"", False
    try:
        if not careful:
            begun = bytes(await reader.read(kept + 1) or b"")
            ended = len(begun) <= kept
        body, whole = (begun, True) if ended else await read(reader, begun, kept)
        return Response(got.status, headers_of(got), body, method, whole=whole)
    finally:
        if not ended:  # what has been read to its end holds nothing any more
            await call.__aexit__(None, None, None)


async def read(body: ResponseBodyReader, begun: bytes, kept: int) -> tuple[bytes, bool]:
    """Read the rest of a body of which some is read, and give what is kept of it and whether that is all.

    No more is decoded than `READ` and one chunk.
    """
    found, size = bytearray(begun), len(begun)
    try:
        while size <= READ and (chunk := await body.read_chunk()) is not None:
            size += len(chunk)
            if len(found) <= kept:
                found += chunk
    except PyreqwestError:
        return bytes(found[:kept]), False
    return bytes(found[:kept]), len(found) <= kept


def headers_of(answer: HttpResponse) -> dict[str, str]:
    """Give the headers of an answer: several of one name as one list (RFC 9110 §5.3), none whose value is no text."""
    headers = answer.headers
    try:
        found = headers.dict_multi_value()
    except ValueError:  # one of them is no text
        found = {}
        for name in headers:
            with contextlib.suppress(ValueError):
                found[name] = headers.getall(name)
    if len(found) == len(headers):
        return cast("dict[str, str]", found)
    return {name: value if isinstance(value, str) else ", ".join(value) for name, value in found.items()}


def is_address(url: str) -> bool:
    """Say whether calls can be made below an address: http or https, a host, neither query nor fragment."""
    try:
        parts = urlsplit(url)
        Url.parse(url)  # which is stricter, and is what calls are made with
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment


def unsent(error: PyreqwestError) -> bool:
    """Say whether a call certainly failed before the request was sent.

    The exception's type does not say so: a connection that is reset after the request is a ConnectError too.
    """
    return isinstance(error, PoolTimeoutError) or CONNECTING in causes(error)


def untouched(error: PyreqwestError) -> bool:
    """Say whether the target has said that it did nothing with a request, so that it may be made again."""
    found = causes(error)
    return SENDING in found and UNTOUCHED.match(found[-1]) is not None


def reason(error: Exception) -> str:
    """Name an error without the address, which may hold what is not for a log; of a certificate say what is wrong.

    The exception's type is the last thing to go by: a call that was sent and had no answer in time is a
    ConnectTimeoutError.
    """
    found = causes(error)
    for cause in found:
        if cause.startswith(DISTRUST):
            return f"its certificate is not trusted: {re.split('[;:]', cause.removeprefix(DISTRUST))[0]}"
    plain = PLAIN.match(found[-1]) if found else None
    return type(error).__name__ if plain is None else f"{plain[1][0].lower()}{plain[1][1:]}"


def causes(error: Exception) -> list[str]:
    """Give what an error says of its causes, the outermost first."""
    found = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return [cause["message"] for cause in found or ()]
