"""POST /in/{source}, and what every worker shows: /schemas/ids/{id}, /metrics, /healthz, /readyz."""

import asyncio
from collections.abc import Callable, Mapping

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from trunkline.adapters import WebhookRequest
from trunkline.engine.publish import Publisher
from trunkline.errors import Rejected, Unavailable
from trunkline.gateway.problems import of_rejected, of_unavailable, problem
from trunkline.kafka.registry import Registry, answer

LARGEST = 1_048_576
"""Bytes of a posted body."""
PATIENCE = 15.0
"""Seconds in which a body must be whole."""


def build(
    publishers: Mapping[str, Publisher],
    registry: Registry,
    metrics: CollectorRegistry,
    stopped: Callable[[], Mapping[str, str]],
) -> Starlette:
    """Build the app; `stopped` names the flows that do not run, with the reason."""

    async def receive(request: Request) -> Response:
        name = request.path_params["source"]
        if (publisher := publishers.get(name)) is None:
            known = ", ".join(sorted(publishers)) or "none"
            return problem(404, "No such source", f"Nobody here is called {name}; the sources are: {known}.")
        try:
            body = await read(request)
            headers = dict(request.headers.items())
            publisher.source.verify.check(headers, body)
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

    async def show_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics), headers={"content-type": CONTENT_TYPE_LATEST})

    async def health(_: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    async def ready(_: Request) -> Response:
        why = stopped()
        return Response(orjson.dumps({"stopped": why}), 503 if why else 200, media_type="application/json")

    return Starlette(
        routes=[
            Route("/in/{source}", receive, methods=["POST"]),
            Route("/schemas/ids/{id:int}", schema),
            Route("/metrics", show_metrics),
            Route("/healthz", health),
            Route("/readyz", ready),
        ],
        exception_handlers={HTTPException: refuse, Exception: fail},
    )


def refuse(request: Request, error: Exception) -> Response:
    """Answer for an address or method that is not there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(status, "No such thing here", f"{request.method} {request.url.path}: events go to POST /in/SOURCE.")


def fail(_: Request, error: Exception) -> Response:
    """Answer for a bug of ours or of a source, without its words: they may hold what is not for the sender."""
    return problem(500, "A bug on our side", f"{type(error).__name__}; nothing was acknowledged. See the worker's log.")


async def read(request: Request) -> bytes:
    """Read a body of at most 1 MiB, counted as it arrives.

    Raises:
        Rejected: 413, it is larger; 408, it takes too long; 400, the sender left before its end.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                size += len(chunk)
                if size > LARGEST:
                    why = f"It has more than {LARGEST} bytes; nothing was published."
                    raise Rejected(413, "The body is too large", why)
                chunks.append(chunk)
    except TimeoutError:
        why = f"It was not whole after {PATIENCE:g} seconds; nothing was published."
        raise Rejected(408, "The body takes too long", why) from None
    except ClientDisconnect:
        raise Rejected(400, "The body is not whole", "The sender left; nothing was published.") from None
    return b"".join(chunks)
