"""POST /in/{source}, and what every worker shows: /schemas/ids/{id}, /metrics, /healthz, /readyz.

/healthz says that the process lives: its loop turns. /readyz says whether work should be sent to it.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.engine import spans
from trunkline.engine.publish import Publisher
from trunkline.errors import Rejected, Unavailable
from trunkline.gateway.problems import of_rejected, of_unavailable, problem
from trunkline.gateway.protocol import WHOLE
from trunkline.kafka.registry import Schemas, answer
from trunkline.webhooks import WebhookRequest

LARGEST = 1_048_576
"""Bytes of a posted body."""
PATIENCE = 15.0
"""Seconds in which a body must be whole."""
SILENT = 30.0
"""Seconds for which brokers or the ledger may be away before no more work should be sent here."""
PLAIN = {"content-encoding": "identity", "transfer-encoding": "chunked"}
"""How a body is told to come as it is, by header."""
SHOWN = 200
"""Characters of an unknown address that are repeated."""


class Door:
    """What the gateway lets in: nothing but questions while the worker starts and while it drains."""

    def __init__(self) -> None:
        self.state: Literal["starting", "open", "draining"] = "starting"
        self._posting = 0
        self._emptied = asyncio.Event()

    @contextmanager
    def posting(self) -> Iterator[None]:
        """Count a request to a source until it has its answer."""
        self._posting += 1
        self._emptied.clear()
        try:
            yield
        finally:
            self._posting -= 1
            if not self._posting:
                self._emptied.set()

    async def emptied(self, seconds: float) -> None:
        """Wait for the requests in progress, but not for a sender that dawdles."""
        if self._posting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)


@dataclass(frozen=True, slots=True)
class Condition:
    """How the flows of a worker are."""

    flows: Collection[str]
    waiting: Collection[str]
    """Those that their consumer group has not taken in yet."""
    stopped: Mapping[str, str]
    """Those that have halted, with the reason."""
    silence: float = 0.0
    """For how many seconds no broker has acknowledged anything."""
    unwritten: tuple[float, str] = (0.0, "")
    """For how many seconds the ledger has taken nothing, and why."""


def unready(door: Door, condition: Condition) -> str:
    """Say why a worker should get no work; "" when it should.

    A flow that has halted is named wherever this is asked, but the worker stays ready as long as another of its flows
    works: one bad target must not take the sources of the same process out of a load balancer. Membership counts once:
    a rebalance later on does not make a worker unready, nor does a broker or ledger that is away for a moment.
    """
    if door.state == "starting":
        return "The worker starts: it connects and reads its tables."
    if door.state == "draining":
        return "The worker drains: it finishes what is in flight, and ends."
    if condition.waiting:
        return f"Not yet taken in by their consumer groups: {', '.join(sorted(condition.waiting))}."
    if condition.silence > SILENT:
        return (
            f"No broker has acknowledged anything for {condition.silence:.0f} seconds: it is away, does not take us, "
            "or has too few replicas. `trunkline status`, with the settings of this worker, says which."
        )
    if condition.unwritten[0] > SILENT:
        return f"The ledger has taken nothing for {condition.unwritten[0]:.0f} seconds: {condition.unwritten[1]}."
    if condition.stopped and condition.stopped.keys() >= set(condition.flows):
        return f"Every flow has halted: {' '.join(f'{flow}: {why}' for flow, why in condition.stopped.items())}"
    return ""


class Inlet:
    """Answers what is asked of /in/{source}, and leaves the rest to `others`.

    What is posted does not pass Starlette's layers: they would cost more than reading and checking it.
    """

    def __init__(
        self, publishers: Mapping[str, Publisher], door: Door, condition: Callable[[], Condition], others: ASGIApp
    ) -> None:
        self._publishers = publishers
        self._door = door
        self._condition = condition
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI 3)."""
        where, _, name = scope["path"].rpartition("/")
        if where != "/in" or not name:
            await self._others(scope, receive, send)
            return
        try:
            if scope["method"] == "POST":
                with self._door.posting():
                    answer = await self._post(name, scope, receive)
            else:
                answer = consent(Request(scope), self._publishers.get(name))
        except Exception as error:
            await fail(Request(scope), error)(scope, receive, send)
            raise  # uvicorn logs it
        await answer(scope, receive, send)

    async def _post(self, name: str, scope: Scope, receive: Receive) -> Response:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = spans.receiving(name if name in self._publishers else "nobody", headers.get("traceparent"))
        answer = await self._take(name, headers, scope, receive)
        if span is not None:
            status = answer.status_code
            span.end(str(status) if status >= 400 else "", {"http.response.status_code": status})
        if self._door.state == "draining":  # the next one would meet our closing, and have no answer (RFC 9112 §9.5)
            answer.headers["connection"] = "close"
        return answer

    async def _take(self, name: str, headers: Mapping[str, str], scope: Scope, receive: Receive) -> Response:
        publisher = self._publishers.get(name)
        if self._door.state != "open":
            why = unready(self._door, self._condition())
            if publisher is not None:
                publisher.reject(why)
            return problem(503, "Not now", f"Nothing was acknowledged, post it again. {why}")
        if publisher is None:
            known = ", ".join(sorted(self._publishers)) or "none"
            return problem(404, "No such source", f"Nobody here is called {name[:SHOWN]}; the sources are: {known}.")
        try:
            refuse_encoded(headers, scope)
            body = await read(headers, scope, receive)
            publisher.verify(headers, body)
        except Rejected as error:
            publisher.reject(str(error))
            return of_rejected(error)
        try:
            accepted = await publisher.publish(WebhookRequest(headers, body))
        except Rejected as error:
            return of_rejected(error)
        except Unavailable as error:
            return of_unavailable(error)
        status = 202 if any(item.outcome == "published" for item in accepted) else 200
        return Response(orjson.dumps({"events": accepted}), status, media_type="application/json")


def build(
    publishers: Mapping[str, Publisher],
    registry: Schemas,
    metrics: CollectorRegistry,
    door: Door,
    condition: Callable[[], Condition],
    *,
    own: int | None = None,
) -> Inlet:
    """Build the app; `own` is the port at which this process alone answers, when it shares another with its like."""

    async def schema(request: Request) -> Response:
        try:
            body = await asyncio.to_thread(answer, registry, request.path_params["id"])
        except Unavailable as error:
            return of_unavailable(error)
        if body is None:
            return problem(404, "No such schema", f"Nobody registered schema {request.path_params['id']}.")
        return Response(body, media_type="application/vnd.schemaregistry.v1+json")

    async def show_metrics(request: Request) -> Response:
        if own is not None and request.scope["server"][1] != own:
            others = "its like on the ports beside it"
            why = (
                f"Several processes answer here, each with figures of its own: this one's are on port {own}, {others}."
            )
            return problem(421, "Ask each process", why)
        return Response(generate_latest(metrics), headers={"content-type": CONTENT_TYPE_LATEST})

    async def health(_: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    async def ready(_: Request) -> Response:
        found = condition()
        stopped, waiting = dict(found.stopped), sorted(found.waiting)
        if why := unready(door, found):
            return problem(503, "Not ready", why, stopped=stopped, waiting=waiting)
        return Response(orjson.dumps({"stopped": stopped}), media_type="application/json")

    app = Starlette(
        routes=[
            Route("/schemas/ids/{id:int}", schema),
            Route("/metrics", show_metrics),
            Route("/healthz", health),
            Route("/readyz", ready),
        ],
        exception_handlers={HTTPException: refuse, Exception: fail},
    )
    app.router.redirect_slashes = False  # a sender is told what is wrong: few post again where they are sent
    return Inlet(publishers, door, condition, app)


def consent(request: Request, publisher: Publisher | None) -> Response:
    """Tell a sender that asks before it posts that events are wanted.

    Everybody else is told to post, to each name: nobody learns here which sources there are.
    """
    origin = request.headers.get("webhook-request-origin", "")
    known = getattr(publisher and publisher.source, "origins", ())  # a source need not be built on Webhook
    if request.method != "OPTIONS" or origin.lower() not in [one.lower() for one in known]:
        return refuse_method(request, "POST")
    told = {"allow": "POST", "webhook-allowed-origin": origin, "webhook-allowed-rate": "*"}
    return Response(status_code=200, headers=told)


def refuse(request: Request, error: Exception) -> Response:
    """Answer for an address or method that is not there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return refuse_method(request, ", ".join(sorted((getattr(error, "headers", None) or {})["Allow"].split(", "))))
    return problem(status, "No such thing here", f"{asked(request)}: events go to POST /in/SOURCE.")


def refuse_method(request: Request, allowed: str) -> Response:
    """Answer for a method that is not there."""
    why = f"{asked(request)}: it takes {allowed}. Nothing was published."
    answer = problem(405, "Another method is wanted", why)
    answer.headers["allow"] = allowed
    return answer


def asked(request: Request) -> str:
    """Repeat what was asked for."""
    return f"{request.method} {request.url.path[:SHOWN]}"


def fail(_: Request, error: Exception) -> Response:
    """Answer for a bug of ours or of a source, without its words: they may hold what is not for the sender."""
    return problem(500, "A bug on our side", f"{type(error).__name__}; nothing was acknowledged. See the worker's log.")


def refuse_encoded(headers: Mapping[str, str], scope: Scope) -> None:
    """Let a body pass that comes as it is.

    Raises:
        Rejected: 415, it is compressed: what is signed would be other bytes than what is read.
    """
    for name, plain in PLAIN.items():
        if name not in headers:
            continue
        given = [value.decode("latin-1") for other, value in scope["headers"] if other == name.encode()]
        if (coding := ", ".join(given).strip().lower()) not in ("", plain):
            why = f"Its {name.title()} is {coding[:40]}; send it as it is. Nothing was published."
            raise Rejected(415, "The body is compressed", why)


async def read(headers: Mapping[str, str], scope: Scope, receive: Receive) -> bytes:
    """Read a body of at most 1 MiB: the length that it is told to have is believed, and what arrives is counted.

    Raises:
        Rejected: 413, it is larger; 408, it takes too long; 400, the sender left before its end.
    """
    if int(headers.get("content-length", 0)) > LARGEST:
        raise too_large()
    if WHOLE in scope.get("extensions", ()):
        return await collect(receive)  # without a timer, as there is nothing to wait for
    try:
        async with asyncio.timeout(PATIENCE):
            return await collect(receive)
    except TimeoutError:
        why = f"It was not whole after {PATIENCE:g} seconds; nothing was published."
        raise Rejected(408, "The body takes too long", why) from None


async def collect(receive: Receive) -> bytes:
    """Read a body, as long as that takes.

    Raises:
        Rejected: 413 or 400, as `read`.
    """
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Rejected(400, "The body is not whole", "The sender left; nothing was published.")
        body += message.get("body", b"")
        if len(body) > LARGEST:
            raise too_large()
        more = message.get("more_body", False)
    return bytes(body)


def too_large() -> Rejected:
    """Refuse a body for its size."""
    return Rejected(413, "The body is too large", f"It has more than {LARGEST} bytes; nothing was published.")
