"""What goes out: the requests that sinks make of events, and the key under which a repeat has no second effect."""

import functools
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

from trunkline.errors import Permanent
from trunkline.formats import form, json, multipart, xml
from trunkline.formats.xml import Tree, Xsd

Fields = Mapping[str, object]
Headers = Mapping[str, str]
NOTHING: Mapping[str, Any] = MappingProxyType({})
LONGEST = 8 * 1024
"""Characters of a header that is sent: servers read no more, and answer 400 or 431 or nothing."""
FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that say where a body ends: with another's number the target would get a part of it, or wait for more."""
NO_OTHER = (None, None, None, None)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """How a target takes the key under which a repeat has no second effect (draft-ietf-httpapi-idempotency-key-header).

    `header` names the request header, None where the key belongs into the body: then the sink's `batch` writes it.
    `quoted` writes the header as the draft's structured string, in double quotes; `longest` is the most characters of
    a key that the target takes, and `window` for how long it remembers one: None if for ever, or nobody knows.
    """

    header: str | None = "Idempotency-Key"
    quoted: bool = False
    longest: int = 255
    window: timedelta | None = None

    def cut(self, key: str) -> str:
        """Give as much of a key as the target takes."""
        return key[: self.longest]

    def written(self, key: str) -> str:
        """Give a key as the header has it."""
        return f'"{self.cut(key)}"' if self.quoted else self.cut(key)

    def headers(self, key: str) -> dict[str, str]:
        """Give the headers that carry a key."""
        return {} if self.header is None else {self.header: self.written(key)}


class Body(TypedDict, total=False):
    """What a request carries: one of `json`, `xml`, `form`, `multipart` and `raw`, or nothing; and how."""

    json: Any
    xml: Tree | None
    schema: Xsd | None
    form: Fields | None
    multipart: Mapping[str, object] | None
    raw: tuple[bytes, str] | None
    gzip: bool
    headers: Headers


@dataclass(frozen=True, init=False, repr=False)
class Request:
    """What a sink asks of its target: method, percent-encoded path below the target's address, headers and one body.

    `json` is a value, whose decimals become strings where they are no Number; `xml` a tree as in `formats.xml`, which
    has to fit `schema` when there is one; `form` named values, and lists of them; `multipart` such values and Parts;
    `raw` the bytes and their content type. `gzip` compresses the body.

    Address, credentials and idempotency key are the bus's to add.

    Raises:
        TypeError: it has two bodies.
    """

    method: str
    path: str
    json: Any
    headers: Headers
    xml: Tree | None = None
    schema: Xsd | None = None
    form: Fields | None = None
    multipart: Mapping[str, object] | None = None
    raw: tuple[bytes, str] | None = None
    gzip: bool = False

    def __init__(  # in a third of the time that dataclass takes, as Event
        self,
        method: str,
        path: str,
        json: Any = None,
        headers: Headers = NOTHING,
        *,
        xml: Tree | None = None,
        schema: Xsd | None = None,
        form: Fields | None = None,
        multipart: Mapping[str, object] | None = None,
        raw: tuple[bytes, str] | None = None,
        gzip: bool = False,
    ) -> None:
        own = self.__dict__
        own["method"], own["path"], own["json"], own["headers"] = method, path, json, headers
        if (rare := (xml, form, multipart, raw)) != NO_OTHER:
            if (json, *rare).count(None) < 4:
                raise TypeError("a request has one body at most: json, xml, form, multipart or raw")
            own.update(xml=xml, form=form, multipart=multipart, raw=raw)
        if schema is not None:
            if xml is None:
                raise TypeError("only an xml body has a schema")
            own["schema"] = schema
        if gzip:
            own["gzip"] = gzip

    def __repr__(self) -> str:
        names = [one.name for one in fields(self)[2:]]
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        more = "".join(
            f", {name}={value!r}" for name, value in said.items() if name not in ("headers", "gzip") or value
        )
        return f"Request({self.method!r}, {self.path!r}{more})"

    @classmethod
    def put(cls, template: str, *, path: Fields = NOTHING, **body: Unpack[Body]) -> "Request":
        """PUT a body to the template's path."""
        return cls("PUT", expand(template, path), **body)

    @classmethod
    def post(cls, template: str, *, path: Fields = NOTHING, **body: Unpack[Body]) -> "Request":
        """POST a body to the template's path."""
        return cls("POST", expand(template, path), **body)

    @classmethod
    def patch(cls, template: str, *, path: Fields = NOTHING, **body: Unpack[Body]) -> "Request":
        """PATCH the template's path with a body."""
        return cls("PATCH", expand(template, path), **body)

    @classmethod
    def delete(cls, template: str, *, path: Fields = NOTHING, headers: Headers = NOTHING) -> "Request":
        """DELETE what is at the template's path."""
        return cls("DELETE", expand(template, path), None, headers)

    @classmethod
    def get(cls, template: str, *, path: Fields = NOTHING, headers: Headers = NOTHING) -> "Request":
        """GET what is at the template's path."""
        return cls("GET", expand(template, path), None, headers)

    def encode(self) -> tuple[bytes | None, dict[str, str]]:
        """Give the bytes of the body, None without one, and the headers, their names in lower case.

        A content type that the sink names counts for more than the body's own. The same request gives the same bytes
        every time, so that an idempotency key never comes with another payload.

        Raises:
            Permanent: the body cannot be written; the message says where.
        """
        headers = sendable(self.headers) if self.headers else {}
        if not FRAMING.isdisjoint(headers):
            raise Permanent("the request cannot be made: how long its body is, in which parts, is the bus's to say")
        content: bytes
        if self.json is not None:
            content, kind = json.dumps(self.json), "application/json"
        elif self.xml is not None:
            content, kind = xml.dumps(self.xml, self.schema), "application/xml"
        elif self.form is not None:
            content, kind = form.dumps(self.form), "application/x-www-form-urlencoded"
        elif self.multipart is not None:
            if "content-type" in headers:
                raise Permanent("the request cannot be made: the content type of multipart holds a boundary of its own")
            content, boundary = multipart.dumps(self.multipart)
            kind = f"multipart/form-data; boundary={boundary}"
        elif self.raw is not None:
            content, kind = self.raw
        else:
            return None, headers
        headers.setdefault("content-type", kind)
        if self.gzip:
            if "content-encoding" in headers:
                raise Permanent("the request cannot be made: its body is to be compressed twice")
            headers["content-encoding"] = "gzip"
            content = gzip.compress(content, compresslevel=6, mtime=0)
        return content, headers


def sendable(headers: Headers) -> dict[str, str]:
    """Give headers as they are sent, their names in lower case; what else is wrong with one is the client's to say.

    Raises:
        Permanent: one of them is too long for most servers.
    """
    found = {}
    for name, value in headers.items():
        if isinstance(value, str) and len(value) > LONGEST:
            raise Permanent(f"the request cannot be made: its header {name[:60]} has more than {LONGEST} characters")
        found[name.lower()] = value
    return found


def expand(template: str, values: Mapping[str, object]) -> str:
    """Fill `{name}` places of a path; every value becomes exactly one path segment, whatever is in it (RFC 3986 §3.3).

    Raises:
        Permanent: a value is missing, empty, or "." or "..", which no encoding keeps from being resolved away.
    """
    parts = list(split(template))
    if len(parts) == 1:
        return template
    for place in range(1, len(parts), 2):
        value = values.get(parts[place])
        text = "" if value is None else str(value)
        if text in ("", ".", ".."):
            raise Permanent(f"the path {template} needs a {parts[place]}; the event has {text!r}")
        parts[place] = text if text.isalnum() and text.isascii() else quote(text, safe="")
    return "".join(parts)


@functools.lru_cache(1024)
def split(template: str) -> Sequence[str]:
    """Split a path at its places: what stands between them, and at every odd index a name."""
    return re.split(r"\{(\w+)\}", template)
