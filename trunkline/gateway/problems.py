"""Errors as RFC 9457 problem+json."""

import orjson
from starlette.responses import Response

from trunkline.errors import Rejected, Unavailable

RETRY_AFTER = "2"


def problem(status: int, title: str, detail: str, **more: object) -> Response:
    """Answer with a problem; its kind is `title`, this occurrence is `detail`."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    headers = {"retry-after": RETRY_AFTER} if status == 503 else {}
    return Response(orjson.dumps(body), status, headers, media_type="application/problem+json")


def of_rejected(error: Rejected) -> Response:
    """Tell a sender what is wrong, field by field."""
    fields = [{"field": path, "message": message} for path, message in error.fields]
    return problem(error.status, error.title, str(error), **({"errors": fields} if fields else {}))


def of_unavailable(error: Unavailable) -> Response:
    """Tell a sender to come back: nothing was acknowledged."""
    return problem(503, "Not now", f"Nothing was acknowledged, post it again: {error}.")
