"""CloudEvents 1.0 over HTTP, in any of its three modes (HTTP binding 1.0.2, JSON format 1.0.2)."""

import base64
import binascii
import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, NotRequired
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from trunkline.errors import Rejected
from trunkline.formats import json
from trunkline.formats.plain import media_of
from trunkline.webhooks import WebhookRequest, invalid

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
HEADER = "ce-"
JSON = re.compile(r"(?i)[\w.+-]+/(?:[\w.+-]+\+)?json")

TIME = re.compile(r"(?i)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def moment(text: str) -> datetime:
    """Read a time as RFC 3339 has it, to the microsecond."""
    if not TIME.fullmatch(text):
        raise ValueError("no such form")
    return datetime.fromisoformat(text.upper())


def timely(text: str) -> str:
    """Pass a text that is a time."""
    try:
        moment(text)
    except ValueError:
        why = "Input should be a time with its offset, as 2026-07-01T12:00:00Z (RFC 3339)"
        raise PydanticCustomError("time", why) from None
    return text


Text = Annotated[str, Field(min_length=1)]


class Attributes(TypedDict):
    """What every event says of itself."""

    specversion: Literal["1.0"]
    id: Text
    source: Annotated[str, Field(pattern=r"^\S+$")]
    type: Text
    time: Annotated[str, AfterValidator(timely)]
    subject: NotRequired[str | None]
    datacontenttype: NotRequired[str | None]


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event of a sender; no two of its events have the same `source` and `id`.

    `data` is what binary mode would have posted: the bytes with their content type, and every attribute, extensions
    too, as a header `ce-NAME` of plain text. `data.json(Shape)` reads it.
    """

    id: str
    source: str
    type: str
    time: datetime
    subject: str | None
    data: WebhookRequest


def cloud_events(request: WebhookRequest) -> list[CloudEvent]:
    """Give the events of a request: one, or those of a batch.

    Raises:
        Rejected: 400 when it is no JSON, 415 for a format other than JSON, 422 with every attribute that is wrong or
            missing; `time` has to be there, as the bus knows when each of its events happened.
    """
    media = media_of(request.headers.get("content-type", ""))
    if media == STRUCTURED:
        said = request.json(Attributes)
        return [structured(said, whole(request), "")]
    if media == BATCHED:
        batch = zip(request.json(list[Attributes]), whole(request), strict=True)
        return [structured(said, each, f"[{at}].") for at, (said, each) in enumerate(batch)]
    if media.startswith("application/cloudevents"):
        why = f"It is read from {STRUCTURED}, {BATCHED}, and the headers ce-id, ce-source …; nothing was published."
        raise Rejected(415, "CloudEvents are read as JSON alone", why)
    return [binary(request)]


def whole(request: WebhookRequest) -> Any:
    """Read a body that has been read before with all of its fields, each number with its digits."""
    try:
        return json.loads(request.body.removeprefix(codecs.BOM_UTF8), decimal=json.Number)
    except ValueError as error:
        raise Rejected(400, "The body is no JSON", f"It cannot be read: {error}.") from None


def structured(said: Attributes, event: Mapping[str, Any], at: str) -> CloudEvent:
    """Give an event that is written as JSON; `at` is where it stands."""
    content_type = said.get("datacontenttype") or ""
    wrong = partial(refused, at)
    if event.get("data_base64") is not None:
        if "data" in event:
            raise wrong("data_base64", "an event has data or data_base64, not both")
        try:
            body = base64.b64decode(event["data_base64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise wrong("data_base64", "Input should be base64 (RFC 4648 §4)") from None
    elif "data" not in event:
        body = b""
    elif not content_type or JSON.fullmatch(media_of(content_type)):
        body, content_type = json.dumps(event["data"]), content_type or "application/json"
    elif isinstance(event["data"], str):
        body, content_type = event["data"].encode(), f"{media_of(content_type)}; charset=utf-8"
    else:
        raise wrong("data", "Input should be a valid string, as datacontenttype is no JSON")
    headers = {"content-type": content_type} if content_type else {}
    for name, value in event.items():
        if name not in ("data", "data_base64", "datacontenttype") and value is not None:
            if not isinstance(value, str | int):
                raise wrong(name, "Input should be a text, a whole number or a boolean, as every attribute is")
            headers[HEADER + name] = str(value).lower() if isinstance(value, bool) else str(value)
    return made(said, WebhookRequest(headers, body, f"{at}data."))


def binary(request: WebhookRequest) -> CloudEvent:
    """Give an event whose attributes are headers."""
    attributes = {}
    for name, value in request.headers.items():
        if name.startswith(HEADER):
            try:
                attributes[name.removeprefix(HEADER)] = plain(value)
            except UnicodeError:
                raise refused(HEADER, name.removeprefix(HEADER), "Input should be UTF-8, percent-encoded") from None
    said = WebhookRequest({}, json.dumps(attributes), HEADER).json(Attributes)
    others = {name: value for name, value in request.headers.items() if not name.startswith(HEADER)}
    headers = others | {HEADER + name: value for name, value in attributes.items()}
    return made(said, WebhookRequest(headers, request.body))


def plain(value: str) -> str:
    """Read a header's text: it may be quoted, and its characters percent-encoded (HTTP binding §3.1.3.2)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote_to_bytes(value.encode("latin-1")).decode()  # some senders write UTF-8 as it is


def refused(at: str, name: str, why: str) -> Rejected:
    """Refuse an event for one of its fields."""
    return invalid([(f"{at}{name}", why)], 1)


def made(said: Attributes, data: WebhookRequest) -> CloudEvent:
    """Make an event of what it says of itself."""
    return CloudEvent(said["id"], said["source"], said["type"], moment(said["time"]), said.get("subject"), data)
