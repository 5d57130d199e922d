"""The contracts between the bus and the code that people write: what comes in, what goes out, and what each promises.

Source:  WebhookRequest ──events──▶ [Event]          pure; raises Rejected for the sender's mistakes
Sink:    [Item] ──batch──▶ Request                   pure; raises Permanent when the event cannot be expressed
         Response, [Item] ──verdicts──▶ [Verdict]    pure
"""

import contextlib
import functools
import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from trunkline.errors import Permanent, Rejected, Unknown
from trunkline.event import Event
from trunkline.formats import form, json, multipart, xml
from trunkline.formats.plain import decoded
from trunkline.formats.typed import typed
from trunkline.formats.xml import Tree, Xsd
from trunkline.verdict import Verdict, judge, of_exception

T = TypeVar("T")
D = TypeVar("D", bound=Mapping[str, Any])

Fields = Mapping[str, object]
Headers = Mapping[str, str]
Path = tuple[int | str, ...]
NOTHING: Mapping[str, Any] = MappingProxyType({})
LONGEST = 8 * 1024
"""Characters of a header that is sent: servers read no more, and answer 400 or 431 or nothing."""
TOLD = 100
"""Wrong fields of a body that are named: a body may have hundreds of thousands."""
NO_OTHER = (None, None, None, None)


validator: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
"""Give the validator of a TypedDict, built once."""


def reader_of(shape: Any) -> TypeAdapter[Any]:
    """Make what reads JSON of a shape: its bytes stand there as base64, of either alphabet (RFC 4648 §4, §5)."""
    config = ConfigDict(val_json_bytes="base64")
    try:
        return TypeAdapter(shape, config=config)
    except PydanticUserError:  # a TypedDict takes it from what it stands in alone
        return TypeAdapter(shape | None, config=config)


reader: Callable[[Any], TypeAdapter[Any]] = functools.cache(reader_of)
"""Give what reads JSON of a shape, made once."""


def read_json(shape: type[T], body: bytes | str) -> T:
    """Read JSON of a shape; types are strict, unknown fields are left out.

    Raises:
        ValidationError: it is none.
    """
    value: T | None = reader(shape).validate_json(body, strict=True)
    found: T = validator(shape).validate_json(body, strict=True) if value is None else value
    return found


def fields_of(error: ValidationError, place: Callable[[Path], str] = lambda _: "") -> list[tuple[str, str]]:
    """Name what a validation error is about: (path such as lines[3].quantity, what is wrong), not more than `TOLD`.

    `place` gives what is said before that of where the field is.
    """
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:TOLD]:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
        found.append((path, place(item["loc"]) + item["msg"]))
    return found


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A request as it arrived, already verified: header names are lower-case, the body is untouched."""

    headers: Mapping[str, str]
    body: bytes

    def json(self, shape: type[T]) -> T:
        """Read the body as JSON of this shape (a TypedDict); types are strict, unknown fields are ignored.

        A Decimal keeps every digit, whether it comes as a text or as a number; bytes come as base64.

        Raises:
            Rejected: 400 when it is no JSON, 422 with every wrong field when it has another shape.
        """
        if (exact := json.exactly(self.body)) is not self.body:
            with contextlib.suppress(ValidationError):  # a float of so many digits is no text: then it is read as one
                return read_json(shape, exact)
        try:
            return read_json(shape, self.body)
        except ValidationError as error:
            wrong = fields_of(error)
            if wrong and wrong[0][1].startswith("Invalid JSON: "):
                raise Rejected(400, "The body is no JSON", f"{wrong[0][1]}.") from None
            raise invalid(wrong, error.error_count()) from None

    def xml(self, shape: type[T], names: Headers = NOTHING) -> T:
        """Read the body as XML of this shape, as `json` would read the same: `request.xml(Posted)["order"]`.

        The shape is that of the document, a TypedDict of its root's name. `names` are your prefixes of its namespaces,
        "" for none. `@name` is an attribute, `#text` the text beside attributes; a list has an element any number of
        times, what may be None may be missing, and what the shape does not name is ignored.

        Raises:
            Rejected: 400 when it is no XML (no DTD, 64 levels, 20,000 elements and attributes at most), 422 with every
                wrong field and its line when it has another shape.
            TypeError: the shape lets a field be of several types, which text does not tell apart.
        """
        said = CHARSET.search(self.headers.get("content-type", ""))
        charset = said[1] if said else None
        try:
            tree = xml.loads(self.body, charset, names)
        except ValueError as error:
            raise Rejected(400, "The body is no XML", f"It cannot be read: {error}.") from None
        nil = f"@{xml.Builder(names).name(xml.NIL)}"
        try:
            return read_json(shape, json.dumps(typed(tree, shape, nil)))
        except ValidationError as error:
            found = xml.places(self.body, charset, names)
            wrong = fields_of(error, lambda path: f"line {found.line_of(path)}: ")
            raise invalid(wrong, error.error_count()) from None


def invalid(wrong: Sequence[tuple[str, str]], count: int) -> Rejected:
    """Refuse a body that has another shape."""
    wrong = [(path or "the body", message) for path, message in wrong]
    names = ", ".join(path for path, _ in wrong[:5])
    more = f", and {count - len(wrong):,} more fields than are named here" if count > len(wrong) else ""
    return Rejected(422, "The event is not valid", f"Wrong or missing: {names}{more}.", wrong)


class Verifier(Protocol):
    """Proves who sent a webhook, on the raw bytes, before anything is parsed."""

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return when the sender is who they say.

        Raises:
            Rejected: 401, without saying which part of the proof was wrong.
        """
        ...

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        """Give the headers that a sender of this body adds now."""
        ...


class Source(Protocol):
    """An upstream system that posts events."""

    verify: Verifier

    @property
    def name(self) -> str:
        """Its name: the last part of the gateway's path and of the events' source."""
        ...

    def events(self, request: WebhookRequest) -> Sequence[Event[Any]]:
        """Give the events of one request; called once per request, must be pure.

        Raises:
            Rejected: the request is wrong; nothing of it is published.
        """
        ...


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


@dataclass(frozen=True)  # with slots, Python 3.11 cannot call Item[X](…)
class Item(Generic[D]):
    """One event of a call, and its idempotency key, which is "" where the target knows none."""

    event: Event[D]
    key: str


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


KINDS = {
    "json": re.compile(r"(?i)[\w.-]+/([\w.-]+\+)?json\s*(;|,|$)"),
    "xml": re.compile(r"(?i)[\w.-]+/([\w.-]+\+)?xml\s*(;|,|$)"),
    "form": re.compile(r"(?i)application/x-www-form-urlencoded\s*(;|,|$)"),
    "multipart": re.compile(r"(?i)multipart/[\w-]+\s*(;|$)"),
    "text": re.compile(""),
}
"""The content types under which an answer is read (RFC 6838 §4.2.8 for +json and +xml)."""
CHARSET = re.compile(r"""(?i);\s*charset\s*=\s*["']?([\w.:-]+)""")
BOUNDARY = re.compile(r"""(?i);\s*boundary\s*=\s*(?:"([^"]*)"|([^\s;,]*))""")


@dataclass(frozen=True, init=False)
class Response:
    """What a target answered to a `method`: header names are lower-case, at most 64 KiB of the body.

    `whole` is False when the body was longer than that, too slow or broken off: the status holds, the body may not.

    Whoever reads a body that cannot be read (cut, of another content type, wrong, hostile) raises what that means:
    after a 2xx the outcome is Unknown, for the target has acted and what it said of it is lost; after any other status
    it is what that status means by itself. A content type that is not said is believed to be the right one.
    """

    status: int
    headers: Headers
    body: bytes
    method: str
    whole: bool

    def __init__(  # in a third of the time that dataclass takes, as Event
        self, status: int, headers: Headers = NOTHING, body: bytes = b"", method: str = "POST", *, whole: bool = True
    ) -> None:
        self.__dict__.update(status=status, headers=headers, body=body, method=method, whole=whole)

    def json(self) -> Any:
        """Read the body as JSON: a number with a point or an exponent is a Decimal, every other one an int.

        Raises:
            Undeliverable, Halt: it cannot be read; nested deeper than 64 levels, a name twice and NaN are no JSON here.
        """
        return self._read("json", lambda charset: json.loads(self.body, charset or "utf-8"))

    def xml(self, names: Headers = NOTHING) -> dict[str, Any]:
        """Read the body as the tree that would write it; `names` are your prefixes of its namespaces, "" for none.

        Raises:
            Undeliverable, Halt: it cannot be read; no DTD, 64 levels and 20,000 elements and attributes at most.
        """
        return self._read("xml", lambda charset: xml.loads(self.body, charset, names))

    def form(self) -> dict[str, list[str]]:
        """Read the body as a form: the texts of each name.

        Raises:
            Undeliverable, Halt: it cannot be read.
        """
        return self._read("form", lambda charset: form.loads(self.body, charset or "utf-8"))

    def multipart(self) -> list["Response"]:
        """Read the body's parts, each as an answer of its own: with its headers and body, and the status of the whole.

        Raises:
            Undeliverable, Halt: it cannot be read.
        """
        said = BOUNDARY.search(self.headers.get("content-type", ""))
        boundary = "" if said is None else said[1] or said[2] or ""
        parts = self._read("multipart", lambda _: multipart.loads(self.body, boundary))
        return [Response(self.status, headers, body, self.method) for headers, body in parts]

    def text(self) -> str:
        """Read the body as text of any type, in UTF-8 where it names no charset.

        Raises:
            Undeliverable, Halt: it cannot be read.
        """
        return self._read("text", lambda charset: decoded(self.body, charset or "utf-8"))

    def _read(self, kind: str, loads: Callable[[str | None], T]) -> T:
        """Read the body, given the charset that the target names."""
        said = self.headers.get("content-type", "")
        if not self.whole:
            raise self._unread("only its beginning arrived")
        if said and not KINDS[kind].match(said):
            raise self._unread(f"its content type is {said[:60]!r}, not {kind}")
        charset = CHARSET.search(said)
        try:
            return loads(charset[1] if charset else None)
        except ValueError as error:
            raise self._unread(str(error)) from None

    def _unread(self, why: str) -> Exception:
        """Say what an answer means whose body is wanted and cannot be read."""
        meant = judge(self.status, self.headers, self.body, now=datetime.now(UTC), method=self.method)
        if isinstance(meant, Exception):
            return meant
        return Unknown(f"answered {self.status}, and its body cannot be read: {why}", status=self.status)


class Sink(Protocol):
    """A target API, seen from the bus."""

    @property
    def name(self) -> str:
        """Its name: part of the idempotency key, so of every delivery's identity."""
        ...

    @property
    def was(self) -> str:
        """The name it had before, "" when it had none: its deliveries stay known by that one (I1)."""
        ...

    @property
    def target(self) -> Any:
        """The remote system that the sink calls."""
        ...

    @property
    def idempotency(self) -> Idempotency | None:
        """How the target takes our key; None when it knows no keys: an unknown outcome is then for a person (D4)."""
        ...

    @property
    def writes(self) -> Literal["each", "latest"]:
        """What the target holds: the effect of each event, or the latest state of each key (D11, R2).

        With "latest" an event that comes after a later one of its key is superseded, not due.
        """
        ...

    @property
    def together(self) -> int:
        """The most events that one call takes; 1 when each has its own."""
        ...

    @property
    def speaks(self) -> str:
        """The version of the target's API that it is written for, as the target writes it; "" when it does not say."""
        ...

    def request(self, event: Event[Any]) -> Request:
        """Say what to send for one event. Pure: called again for every attempt.

        Raises:
            Permanent: the event cannot be expressed; it becomes a dead letter.
        """
        ...

    def verdict(self, response: Response) -> Verdict:
        """Say what an answer means."""
        ...

    def batch(self, items: Sequence[Item[Any]]) -> Request:
        """Say what to send for `together` events at most, no two of one key (D10). Pure, as `request` is.

        Raises:
            Permanent: one of the events cannot be expressed; those of a larger batch are then asked for one by one.
        """
        ...

    def verdicts(self, response: Response, items: Sequence[Item[Any]]) -> Sequence[Verdict]:
        """Say what an answer means for each of the events, in their order."""
        ...


def judged(sink: Sink, response: Response, items: Sequence[Item[Any]]) -> list[Verdict]:
    """Ask a sink for its verdicts, one for each event; its mistakes have a verdict too."""
    try:
        verdicts = list(sink.verdicts(response, items))
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises has a verdict
        return [of_exception(error)] * len(items)
    if len(verdicts) != len(items):
        return [Permanent(f"bug in the adapter: {len(verdicts)} verdicts for {len(items)} events")] * len(items)
    return verdicts
