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
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from trunkline.engine import spans
from trunkline.engine.publish import Publisher
from trunkline.errors import Rejected, Unavailable
from trunkline.gateway.problems import of_rejected, of_unavailable, problem
from trunkline.kafka.registry import Schemas, answer
from trunkline.webhooks import WebhookRequest

LARGEST = 1_048_576
"""Bytes of a posted body."""
PATIENCE = 15.0
"""Seconds in which a body must be whole."""
SILENT = 30.0
"""Seconds for which brokers or the ledger may be away before no more work should be sent here."""
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


def build(
    publishers: Mapping[str, Publisher],
    registry: Schemas,
    metrics: CollectorRegistry,
    door: Door,
    condition: Callable[[], Condition],
    *,
    own: int | None = None,
) -> Starlette:
    """Build the app; `own` is the port at which this process alone answers, when it shares another with its like."""

    async def receive(request: Request) -> Response:
        with door.posting():
            name = request.path_params["source"]
            span = spans.receiving(name if name in publishers else "nobody", request.headers.get("traceparent"))
            answer = await take(request)
            if span is not None:
                status = answer.status_code
                span.end(str(status) if status >= 400 else "", {"http.response.status_code": status})
            if door.state == "draining":  # the next one would meet our closing, and have no answer (RFC 9112 §9.5)
                answer.headers["connection"] = "close"
            return answer

    async def take(request: Request) -> Response:
        name = request.path_params["source"]
        if door.state != "open":
            why = unready(door, condition())
            if (publisher := publishers.get(name)) is not None:
                publisher.reject(why)
            return problem(503, "Not now", f"Nothing was acknowledged, post it again. {why}")
        if (publisher := publishers.get(name)) is None:
            known = ", ".join(sorted(publishers)) or "none"
            return problem(404, "No such source", f"Nobody here is called {name[:SHOWN]}; the sources are: {known}.")
        try:
            refuse_encoded(request)
            body = await read(request)
            headers = dict(request.headers.items())
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

    async def options(request: Request) -> Response:
        return consent(request, publishers.get(request.path_params["source"]))

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
            Route("/in/{source}", receive, methods=["POST"]),
            Route("/in/{source}", options, methods=["OPTIONS"]),
            Route("/schemas/ids/{id:int}", schema),
            Route("/metrics", show_metrics),
            Route("/healthz", health),
            Route("/readyz", ready),
        ],
        exception_handlers={HTTPException: refuse, Exception: fail},
    )
    app.router.redirect_slashes = False  # a sender is told what is wrong: few post again where they are sent
    return app


def consent(request: Request, publisher: Publisher | None) -> Response:
    """Tell a sender that asks before it posts that events are wanted.

    Raises:
        HTTPException: 405 for everybody else, of each name: nobody learns here which sources there are.
    """
    origin = request.headers.get("webhook-request-origin", "")
    known = getattr(publisher and publisher.source, "origins", ())  # a source need not be built on Webhook
    if origin.lower() not in [one.lower() for one in known]:
        raise HTTPException(405, headers={"Allow": "POST"})
    told = {"allow": "POST", "webhook-allowed-origin": origin, "webhook-allowed-rate": "*"}
    return Response(status_code=200, headers=told)


def refuse(request: Request, error: Exception) -> Response:
    """Answer for an address or method that is not there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    asked = f"{request.method} {request.url.path[:SHOWN]}"
    if status != 405:
        return problem(status, "No such thing here", f"{asked}: events go to POST /in/SOURCE.")
    allowed = ", ".join(sorted((getattr(error, "headers", None) or {})["Allow"].split(", ")))
    answer = problem(405, "Another method is wanted", f"{asked}: it takes {allowed}. Nothing was published.")
    answer.headers["allow"] = allowed
    return answer


def fail(_: Request, error: Exception) -> Response:
    """Answer for a bug of ours or of a source, without its words: they may hold what is not for the sender."""
    return problem(500, "A bug on our side", f"{type(error).__name__}; nothing was acknowledged. See the worker's log.")


def refuse_encoded(request: Request) -> None:
    """Let a body pass that comes as it is.

    Raises:
        Rejected: 415, it is compressed: what is signed would be other bytes than what is read.
    """
    for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        coding = ", ".join(request.headers.getlist(name)).strip().lower()
        if coding not in ("", plain):
            why = f"Its {name} is {coding[:40]}; send it as it is. Nothing was published."
            raise Rejected(415, "The body is compressed", why)


async def read(request: Request) -> bytes:
    """Read a body of at most 1 MiB: the length that it is told to have is believed, and what arrives is counted.

    Raises:
        Rejected: 413, it is larger; 408, it takes too long; 400, the sender left before its end.
    """
    if int(request.headers.get("content-length", 0)) > LARGEST:
        raise too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                size += len(chunk)
                if size > LARGEST:
                    raise too_large()
                chunks.append(chunk)
    except TimeoutError:
        why = f"It was not whole after {PATIENCE:g} seconds; nothing was published."
        raise Rejected(408, "The body takes too long", why) from None
    except ClientDisconnect:
        raise Rejected(400, "The body is not whole", "The sender left; nothing was published.") from None
    return b"".join(chunks)


def too_large() -> Rejected:
    """Refuse a body for its size."""
    return Rejected(413, "The body is too large", f"It has more than {LARGEST} bytes; nothing was published.")
