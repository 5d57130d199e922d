"""The answers: of an API that works, of one that was told to refuse, and of this server itself."""

import email.utils
import math
from datetime import UTC, datetime
from http import HTTPStatus
from time import time

import orjson
from starlette.responses import Response

from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.call import Call
from trunkline.dev.target.records import Outcome


def answer(call: Call, outcome: Outcome) -> Response:
    """Give the answer of an API that works."""
    if outcome == "reused":
        return problem(422, "The key came before with another body.", title="Idempotency-Key is already used")
    return json_response({"applied": outcome == "applied", "key": call.key})


def refusal(status: int, behaviour: Behaviour) -> Response:
    """Give the answer that a behaviour asks for."""
    if behaviour.body is None:
        response = problem(status, behaviour.detail)
    elif isinstance(behaviour.body, str):
        response = Response(behaviour.body, status, media_type="text/plain")
    else:
        response = json_response(behaviour.body, status)
    if behaviour.retry_after is not None:
        response.headers["Retry-After"] = (
            later(behaviour.retry_after) if behaviour.dated else str(behaviour.retry_after)
        )
    if behaviour.location is not None:
        response.headers["Location"] = behaviour.location
    return response


def later(seconds: int) -> str:
    """Give an HTTP date (RFC 9110 §5.6.7), which has whole seconds, that is at least so many from now."""
    return email.utils.format_datetime(datetime.fromtimestamp(math.ceil(time()) + seconds, UTC), usegmt=True)


def problem(status: int, detail: str, *, title: str | None = None) -> Response:
    """Give an RFC 9457 answer whose `detail` is one plain sentence."""
    known = status in HTTPStatus._value2member_map_
    title = title or (HTTPStatus(status).phrase if known else "Unknown status")
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json_response(content, status, media_type="application/problem+json")


def json_response(content: object, status: int = 200, *, media_type: str = "application/json") -> Response:
    """Give a JSON answer."""
    return Response(orjson.dumps(content), status, media_type=media_type)
