"""One attempt of a hand-written sink: what it is given, and what becomes of what it raises."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from trunkline.errors import Permanent, Retryable, Unavailable, Unknown, pass_on
from trunkline.event import Event
from trunkline.http import transport
from trunkline.responses import Response
from trunkline.sinks.http import Calls, HttpSink, Written
from trunkline.verdict import Verdict, checked, of_exception


@dataclass(frozen=True)
class Calling:
    """What a hand-written sink makes its calls with, as `trunkline.sinks.Calls` promises."""

    http: httpx.AsyncClient
    key_for: Callable[[str], str]

    @property
    def key(self) -> str:
        """The idempotency key of the delivery."""
        return self.key_for("")


async def attempt(sink: HttpSink, deliver: Written, event: Event[Any], call: Calls) -> tuple[Verdict, Response | None]:
    """Let a sink deliver an event; give its verdict, and the answer that decided when it is one.

    Raises:
        Unavailable: the target stands still, so this counts for nothing.
    """
    answer = None
    try:
        try:
            async with asyncio.timeout(transport.DEADLINE):
                found = await deliver.deliver(event, call)
        except httpx.HTTPStatusError as error:
            found = error.response
        if not isinstance(found, httpx.Response):
            return checked(found), None
        answer = response_of(found)
        return checked(sink.verdict(answer)), answer
    except TimeoutError:
        return Unknown("it had not ended at the deadline"), None
    except Unavailable:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever an adapter or a call raises has a verdict
        return verdict_of(error), answer


def response_of(answer: httpx.Response) -> Response:
    """Give a client's answer as sinks know one."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    body = answer.content[: transport.KEPT]
    whole = answer.extensions.get("whole", True) and len(body) == len(answer.content)
    return Response(answer.status_code, headers, body, answer.request.method, whole=whole)


def verdict_of(error: BaseException) -> Verdict:
    """Say what was raised around a call means: whether the target may have acted on the request."""
    pass_on(error)
    match error:
        case asyncio.CancelledError():
            return Unknown("what its sink waited for was cancelled, and not by Trunkline")
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return Retryable(f"no connection to the target: {type(error).__name__}")
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError() | httpx.InvalidURL():
            return Permanent(f"the request cannot be made: {type(error).__name__}")
        case httpx.HTTPError():
            return Unknown(f"no answer from the target: {type(error).__name__}")
        case _:
            return of_exception(error)
