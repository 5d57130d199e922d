"""One small HTTP server that stands for remote APIs, can be broken and healed, and counts what really happened.

    python -m trunkline.dev.target --port 8801 --database var/target.db

It knows no business: the first path segment names the API, so `/NAME/any/path` answers for any NAME and any method.
A request's idempotency key is its `Idempotency-Key` header (bare or quoted); without one, the method and path of a PUT
or DELETE; otherwise it has none and is an effect of its own. A key takes effect once. The same key with the same body
is a repeat and changes nothing; with another body it is refused with 422.

    200 {"applied": true, "key": "…"}      the effect happened now
    200 {"applied": false, "key": "…"}     it had happened before

Witnesses count in the SQLite file (WAL, so reading never disturbs the server; open it with `mode=ro`):

    effects   name, key (NULL without one), method, path, body, body_sha256, at, first_seq, times, repeats
              One row per (name, key), and one per request without a key. `times` counts how often it was applied: 1,
              unless the API was told not to honour keys. `repeats` counts the requests that found it applied.
              The row is that of the first application, whose attempt is `first_seq`.
    attempts  seq, name, key, path, body_sha256, status, at, in_flight_at_arrival
              One row per request that arrived whole. `seq` rises in order of arrival, over restarts too. `status` is
              the answer, NULL when none was given (cut, or the client left). `in_flight_at_arrival` counts the others
              of that API.
    overlaps  seq, beside, name
              One row per pair of requests whose paths begin with the same segment, `seq` having arrived before
              the answer to `beside` began: a client that keeps such a segment in order has none.
    changes   number, seq, name, path, version, body_sha256, at
              What an API that `stores` holds: one row per change of a path's value. `number` rises in their order.

`path` is what follows /NAME, percent-encoded as sent, without the query. `at` is in epoch seconds: of the arrival for
an attempt, of the application for an effect. `body` is TEXT when it is UTF-8 and BLOB otherwise. All tables are
committed before a request is answered or cut, all requests of one pass of the event loop together: what was answered
is in the file even when the process is killed.

Control, in JSON: POST, GET and DELETE ?name=NAME on /_control/behaviours, GET /_control/stats, POST /_control/reset.
"""

import argparse
import asyncio
import email.utils
import hashlib
import hmac
import itertools
import math
import random
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from http import HTTPStatus
from pathlib import Path
from time import monotonic, time
from types import TracebackType
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

import httpx
import orjson
import pydantic.dataclasses
import uvicorn
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from trunkline.errors import Unavailable

Outcome = Literal["applied", "repeat", "reused"]

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;  -- what is committed survives the process, in the system's cache; the machine need not
CREATE TABLE IF NOT EXISTS effects (
    name TEXT NOT NULL, key TEXT, method TEXT NOT NULL, path TEXT NOT NULL, body, body_sha256 TEXT NOT NULL,
    at REAL NOT NULL, first_seq INTEGER NOT NULL, times INTEGER NOT NULL, repeats INTEGER NOT NULL, UNIQUE (name, key));
CREATE TABLE IF NOT EXISTS attempts (
    seq INTEGER PRIMARY KEY, name TEXT NOT NULL, key TEXT, path TEXT NOT NULL, body_sha256 TEXT NOT NULL,
    status INTEGER, at REAL NOT NULL, in_flight_at_arrival INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS overlaps (seq INTEGER NOT NULL, beside INTEGER NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY, seq INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, version,
    body_sha256 TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS changes_of ON changes (name, path);
"""
ARRIVE = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, NULL, ?, ?)"
SETTLE = "UPDATE attempts SET status = ? WHERE seq = ?"
APPLY = """INSERT INTO effects VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 0) ON CONFLICT (name, key) DO UPDATE
    SET repeats = repeats + (body_sha256 = excluded.body_sha256) RETURNING first_seq, body_sha256"""
APPLY_AGAIN = """INSERT INTO effects VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 0) ON CONFLICT (name, key) DO UPDATE
    SET times = times + 1"""
OVERLAP = "INSERT INTO overlaps VALUES (?, ?, ?)"
CHANGE = """INSERT INTO changes (seq, name, path, version, body_sha256, at)
    SELECT :seq, :name, :path, :version, :body_sha256, :at WHERE :body_sha256 IS NOT (
        SELECT body_sha256 FROM changes WHERE name = :name AND path = :path ORDER BY number DESC LIMIT 1)"""

PART = bytes(64 * 1024)
"""What a large answer is filled up with, again and again."""


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Behaviour:
    """How an API misbehaves until it is healed.

    name: the API, the first path segment.
    match: which requests: a glob on the path below /NAME ("/things/7/*"), or "field=glob" on a field of a JSON body.
    status: refuse so, without applying; with `body` (JSON, or a string as plain text), by default a problem+json whose
        sentence is `detail`; `retry_after` (whole seconds) becomes the header, as an HTTP date when `dated`, and so
        does `location`.
    hang: hold the request for so many seconds and then go on, or for ever. Healing cuts what is held; so does a client
        that leaves, unless the API is `deaf`: it goes on with what nobody waits for any more.
    reset: close the TCP connection abruptly (RST) instead of answering.
    latency_ms: hold the answer, whatever it is, once it is decided.
    drip_ms: send the answer's body byte by byte, with so many milliseconds before each.
    size: fill the answer's body up to so many bytes, or without end; `gzip` sends it compressed, a thousandth of that.
    honour_keys: False applies every request, repeats included.
    stores: honour no key and keep the last body of each path; this field of a JSON body is its version.
    rate: the probability that it happens to a matching request; the same requests draw the same chances in every run.
    per_second: spare the first so many matching requests of every second.
    after_apply: apply the effect before it fails.

    When several match, latencies add up, and the one added first decides how a request fails or its answer is sent.

    Raises:
        pydantic.ValidationError: a value is out of range, or the values together do nothing or contradict each other.
    """

    name: Annotated[str, Field(pattern=r"^[^/_][^/]*$")]
    match: Annotated[str, Field(pattern=r"^[/*]|=")] = "*"
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    detail: str = "This API was told to refuse the request."
    body: Any = None
    retry_after: Annotated[int, Field(ge=0)] | None = None
    dated: bool = False
    location: str | None = None
    hang: Annotated[float, Field(gt=0)] | Literal["forever"] | None = None
    deaf: bool = False
    reset: bool = False
    latency_ms: Annotated[float, Field(ge=0)] = 0
    drip_ms: Annotated[float, Field(ge=0)] = 0
    size: Annotated[int, Field(gt=0)] | Literal["endless"] | None = None
    gzip: bool = False
    honour_keys: bool = True
    stores: str | None = None
    rate: Annotated[float, Field(ge=0, le=1)] = 1
    per_second: Annotated[int, Field(gt=0)] | None = None
    after_apply: bool = False

    def __post_init__(self) -> None:
        if not (self.fails or self.shapes or self.latency_ms or self.stores or not self.honour_keys):
            raise ValueError(
                "does nothing: give status, hang, reset, latency_ms, drip_ms, size, stores or honour_keys=False"
            )
        if self.reset and (self.status is not None or self.shapes):
            raise ValueError("reset gives no answer, so it has no status, drip_ms or size")
        for name, needs, given in (
            ("dated", "retry_after", self.retry_after is not None),
            ("deaf", "hang", self.hang is not None),
            ("gzip", "size", self.size is not None),
        ):
            if getattr(self, name) and not given:
                raise ValueError(f"{name} is about {needs}, which is not given")

    @property
    def fails(self) -> bool:
        """Whether it does more than to slow an answer down or to change its shape."""
        return self.status is not None or self.hang is not None or self.reset

    @property
    def shapes(self) -> bool:
        """Whether the answer's body is sent in an odd way."""
        return self.drip_ms > 0 or self.size is not None

    def matches(self, path: str, body: bytes) -> bool:
        """Tell whether a request of this API is meant; a body that is no JSON object has no fields."""
        if self.match.startswith(("/", "*")):
            return fnmatchcase(path, self.match)
        name, _, wanted = self.match.partition("=")
        found = member(body, name)
        return found is not None and fnmatchcase(str(found), wanted)


def member(body: bytes, name: str) -> str | int | None:
    """Give a field of a JSON object: a text or whole number as it is, anything else as JSON; None when it has none."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict) or name not in fields:
        return None
    found = fields[name]
    return found if type(found) in (str, int) else orjson.dumps(found).decode()


@dataclass(frozen=True, slots=True)
class Stats:
    """What one API has seen. `statuses` counts attempts by answer, "none" for those without one."""

    attempts: int = 0
    effects: int = 0
    duplicates: int = 0
    repeats: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    statuses: dict[str, int] = field(default_factory=dict)


BEHAVIOUR = TypeAdapter(Behaviour)
BEHAVIOURS = TypeAdapter(dict[int, Behaviour])
STATS = TypeAdapter(dict[str, Stats])


@dataclass(frozen=True, slots=True)
class Requirement:
    """The API key one API asks for."""

    name: str
    header: str
    value: str = field(repr=False)

    def met(self, headers: Mapping[str, str]) -> bool:
        """Tell whether the request carries it."""
        return hmac.compare_digest(headers.get(self.header, "").encode(), self.value.encode())


def read_requirement(text: str) -> Requirement:
    """Read NAME:HEADER:VALUE; the value may contain colons and is in no message.

    Raises:
        argparse.ArgumentTypeError: a part is missing.
    """
    parts = text.split(":", 2)
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError("takes NAME:HEADER:VALUE, and a part is missing")
    return Requirement(*parts)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an API."""

    name: str
    method: str
    path: str
    key: str | None
    body: bytes
    body_sha256: str

    @property
    def lane(self) -> tuple[str, str]:
        """The API and the first segment of the path: what a client may keep in order."""
        return self.name, self.path.split("/", 2)[1]


def key_of(method: str, path: str, headers: Mapping[str, str]) -> str | None:
    """Give a request's idempotency key: its header without quotes, else what HTTP itself calls idempotent."""
    key = headers.get("idempotency-key", "").strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    return key or (f"{method} {path}" if method in {"PUT", "DELETE"} else None)


class Records:
    """The SQLite file: what is written in one pass of the event loop is committed together at its end."""

    def __init__(self, database: Path) -> None:
        self.path = database
        database.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(database, isolation_level=None)
        self._file.executescript(SCHEMA)
        last: int = self._file.execute("SELECT coalesce(max(seq), 0) FROM attempts").fetchone()[0]
        self._seqs = itertools.count(last + 1)
        self._batch: asyncio.Event | None = None

    def arrive(self, call: Call, *, others: int, beside: Collection[int]) -> int:
        """Record an attempt, not answered yet, and return its seq; `beside` are the unanswered ones of its lane."""
        seq = next(self._seqs)
        self._write(ARRIVE, (seq, call.name, call.key, call.path, call.body_sha256, time(), others))
        for other in beside:
            self._write(OVERLAP, (seq, other, call.name))
        return seq

    def apply(self, call: Call, seq: int, *, honour_keys: bool) -> Outcome:
        """Let the effect happen, unless its key says that it has."""
        try:
            body: str | bytes = call.body.decode()
        except UnicodeDecodeError:
            body = call.body
        row = (call.name, call.key, call.method, call.path, body, call.body_sha256, time(), seq)
        if not honour_keys:
            self._write(APPLY_AGAIN, row)
            return "applied"
        [(first_seq, body_sha256)] = self._write(APPLY, row).fetchall()
        if first_seq == seq:
            return "applied"
        return "repeat" if body_sha256 == call.body_sha256 else "reused"

    def store(self, call: Call, seq: int, field: str) -> Outcome:
        """Let the path hold this body from now on, whatever its version."""
        self.apply(call, seq, honour_keys=False)
        values = {"seq": seq, "name": call.name, "path": call.path, "body_sha256": call.body_sha256, "at": time()}
        self._write(CHANGE, {**values, "version": member(call.body, field)})
        return "applied"

    def settle(self, seq: int, status: int) -> None:
        """Record how an attempt is answered."""
        self._write(SETTLE, (status, seq))

    async def committed(self) -> None:
        """Wait until everything written so far is in the file."""
        if self._batch is not None:
            await self._batch.wait()

    async def clear(self) -> None:
        """Empty both tables; seq goes on rising."""
        for table in ("effects", "attempts", "overlaps", "changes"):
            self._write(f"DELETE FROM {table}", ())  # noqa: S608 - of the four names above
        await self.committed()

    def stats(self) -> dict[str, dict[str, Any]]:
        """Count the committed rows per API, on a connection of its own: any thread may ask."""
        found: dict[str, dict[str, Any]] = {}
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            file.execute("BEGIN")  # both questions are asked of the same moment
            for name, status, count in file.execute("SELECT name, status, count(*) FROM attempts GROUP BY 1, 2"):
                api = found.setdefault(name, {"attempts": 0, "statuses": {}})
                api["attempts"] += count
                api["statuses"]["none" if status is None else str(status)] = count
            for name, effects, duplicates, repeats in file.execute(
                "SELECT name, count(*), sum(times > 1), sum(repeats) FROM effects GROUP BY 1"
            ):
                found[name] |= {"effects": effects, "duplicates": duplicates, "repeats": repeats}
        return found

    def close(self) -> None:
        """Close the file; all of it is in one file then, without a WAL beside it."""
        self._file.close()

    def _write(self, statement: str, values: tuple[object, ...] | Mapping[str, object]) -> sqlite3.Cursor:
        if self._batch is None:
            self._file.execute("BEGIN IMMEDIATE")
            self._batch = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._commit, self._batch)
        return self._file.execute(statement, values)

    def _commit(self, batch: asyncio.Event) -> None:
        self._batch = None
        try:
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            # A witness that cannot write must not answer.
            sys.exit(f"target: {self.path} cannot be written ({error}); stopped. What was answered with 200 is in it.")
        batch.set()


class Active:
    """A behaviour until it is healed."""

    def __init__(self, number: int, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.healed = asyncio.Event()
        self._chance = random.Random(number)  # noqa: S311 - a reproducible fault, no secret
        self._second = 0
        self._spared = 0

    def strikes(self, call: Call) -> bool:
        """Tell whether it happens to this request; each request that matches draws once."""
        behaviour = self.behaviour
        return (
            behaviour.name == call.name
            and behaviour.matches(call.path, call.body)
            and not self._spares()
            and self._chance.random() < behaviour.rate
        )

    def _spares(self) -> bool:
        limit = self.behaviour.per_second
        if limit is None:
            return False
        if (second := int(monotonic())) != self._second:
            self._second, self._spared = second, 0
        self._spared += self._spared < limit + 1
        return self._spared <= limit

    async def hold(self, receive: Receive) -> bool:
        """Hold a request whose body was read; False when the client left or the API was healed meanwhile."""
        hang = self.behaviour.hang
        ends: set[asyncio.Future[Any]] = {asyncio.ensure_future(self.healed.wait())}
        if not self.behaviour.deaf:
            ends.add(asyncio.ensure_future(receive()))
        done, waiting = await asyncio.wait(
            ends, timeout=None if hang == "forever" else hang, return_when=asyncio.FIRST_COMPLETED
        )
        for end in waiting:
            end.cancel()
        return not done

    async def pour(self, response: Response, receive: Receive, send: Send) -> None:
        """Send an answer in the shape that the behaviour gives it, until the client leaves or the API is healed."""
        behaviour = self.behaviour
        headers = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
        if behaviour.gzip:
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        ends = {asyncio.ensure_future(receive()), asyncio.ensure_future(self.healed.wait())}
        for part in parts_of(bytes(response.body), behaviour):
            done, _ = await asyncio.wait(ends, timeout=behaviour.drip_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
            if done:
                break
            await send({"type": "http.response.body", "body": part, "more_body": True})
        for end in ends:
            end.cancel()
        await send({"type": "http.response.body"})


class Apis:
    """Every API, and what is wrong with each."""

    def __init__(self, records: Records, required: Sequence[Requirement]) -> None:
        self.records = records
        self.active: dict[int, Active] = {}
        self.in_flight: dict[str, int] = {}
        self.lanes: dict[tuple[str, str], set[int]] = {}
        self.max_in_flight: dict[str, int] = {}
        self._required = {requirement.name: requirement for requirement in required}
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or cut its connection."""
        request = Request(scope, receive)
        _, name, *rest = scope["raw_path"].decode("ascii").split("/", 2)
        if not name:
            await problem(404, "The path names no API: the first segment is its name.")(scope, receive, send)
            return
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        path = "/" + "".join(rest)
        method = request.method
        key = key_of(method, path, request.headers)
        call = Call(unquote(name), method, path, key, body, hashlib.sha256(body).hexdigest())
        with self._flying(call) as seq:
            striking = [active for active in self.active.values() if active.strikes(call)]
            response = await self._answer(call, seq, request, striking)
            shape = next((active for active in striking if active.behaviour.shapes), None)
            if response is None:
                await cut(scope, receive)
            elif shape is None:
                await response(scope, receive, send)
        if response is not None and shape is not None:  # a client may walk away from the rest and call again
            await shape.pour(response, receive, send)

    async def _answer(self, call: Call, seq: int, request: Request, striking: Sequence[Active]) -> Response | None:
        """Do what the request asks and what the behaviours say; None gives no answer. All of it is in the file."""
        response = await self._decide(call, seq, request, striking)
        if response is not None:
            self.records.settle(seq, response.status_code)
        await self.records.committed()
        if latency := sum(active.behaviour.latency_ms for active in striking):
            await asyncio.sleep(latency / 1000)
        return response

    async def _decide(self, call: Call, seq: int, request: Request, striking: Sequence[Active]) -> Response | None:
        required = self._required.get(call.name)
        if required is not None and not required.met(request.headers):
            return problem(401, f"The header {required.header} is missing or holds another value.")
        stores = next((active.behaviour.stores for active in striking if active.behaviour.stores), None)
        honours = all(active.behaviour.honour_keys for active in striking)
        apply = (
            partial(self.records.apply, call, seq, honour_keys=honours)
            if stores is None
            else partial(self.records.store, call, seq, stores)
        )
        fault = next((active for active in striking if active.behaviour.fails), None)
        if fault is None:
            return answer(call, apply())
        behaviour = fault.behaviour
        outcome = apply() if behaviour.after_apply else None
        if behaviour.hang is not None and not await fault.hold(request.receive):
            return None
        if behaviour.reset:
            return None
        if behaviour.status is not None:
            return refusal(behaviour.status, behaviour)
        return answer(call, outcome or apply())

    def add(self, behaviour: Behaviour) -> int:
        """Let an API misbehave from now on; return the behaviour's id."""
        number = next(self._numbers)
        self.active[number] = Active(number, behaviour)
        return number

    def heal(self, name: str | None = None) -> int:
        """End what is wrong with one API, or with all of them, cut what they hold and return how many things it was."""
        healed = [number for number, active in self.active.items() if name in {None, active.behaviour.name}]
        for number in healed:
            self.active.pop(number).healed.set()
        return len(healed)

    async def clear(self) -> None:
        """Heal every API and forget what was recorded; ids, and with them chances, start again."""
        self.heal()
        self._numbers = itertools.count(1)
        self.max_in_flight = {name: count for name, count in self.in_flight.items() if count}
        await self.records.clear()

    @contextmanager
    def _flying(self, call: Call) -> Iterator[int]:
        name = call.name
        others = self.in_flight.get(name, 0)
        lane = self.lanes.setdefault(call.lane, set())
        seq = self.records.arrive(call, others=others, beside=lane)
        lane.add(seq)
        self.in_flight[name] = others + 1
        self.max_in_flight[name] = max(self.max_in_flight.get(name, 0), others + 1)
        try:
            yield seq
        finally:
            self.in_flight[name] -= 1
            lane.remove(seq)
            if not lane:
                self.lanes.pop(call.lane, None)


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


def parts_of(body: bytes, behaviour: Behaviour) -> Iterator[bytes]:
    """Give an answer's body in the parts that a behaviour sends it in."""
    if behaviour.size is None:
        yield from (body[number : number + 1] for number in range(len(body)))
        return
    compressor = zlib.compressobj(wbits=31) if behaviour.gzip else None
    left = math.inf if isinstance(behaviour.size, str) else behaviour.size
    part = body
    while left > 0:
        whole = part if left >= len(part) else part[: int(left)]
        left -= len(whole)
        part = PART
        sent = whole if compressor is None else compressor.compress(whole)
        if sent:
            yield sent
    if compressor is not None:
        yield compressor.flush()


def problem(status: int, detail: str, *, title: str | None = None) -> Response:
    """Give an RFC 9457 answer whose `detail` is one plain sentence."""
    known = status in HTTPStatus._value2member_map_
    title = title or (HTTPStatus(status).phrase if known else "Unknown status")
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json_response(content, status, media_type="application/problem+json")


def json_response(content: object, status: int = 200, *, media_type: str = "application/json") -> Response:
    """Give a JSON answer."""
    return Response(orjson.dumps(content), status, media_type=media_type)


async def cut(scope: Scope, receive: Receive) -> None:
    """Close the request's TCP connection with a RST, unless the client closed it first."""
    transport: asyncio.Transport = scope["state"]["transport"]
    if not transport.is_closing():
        # With no time to linger the system sends RST; an orderly FIN would look like a server that went home politely.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


class Connection(H11Protocol):
    """uvicorn's protocol; each request finds its connection's transport in scope["state"]."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Keep the transport within reach of the application."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Control:
    """The endpoints below /_control."""

    def __init__(self, apis: Apis) -> None:
        self._apis = apis

    async def add(self, request: Request) -> Response:
        """Break an API; 422 when the behaviour makes no sense."""
        try:
            behaviour = BEHAVIOUR.validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            return problem(422, f"{'.'.join(map(str, first['loc'])) or 'the behaviour'}: {first['msg']}.")
        return json_response({"id": self._apis.add(behaviour)}, 201)

    async def show(self, _: Request) -> Response:
        """List what is wrong, by id."""
        active = {number: active.behaviour for number, active in self._apis.active.items()}
        return Response(BEHAVIOURS.dump_json(active), media_type="application/json")

    async def heal(self, request: Request) -> Response:
        """Heal one API."""
        name = request.query_params.get("name")
        if name is None:
            return problem(
                422, "Name the API to heal: ?name=NAME. POST /_control/reset heals all and empties the tables."
            )
        return json_response({"healed": self._apis.heal(name)})

    def stats(self, _: Request) -> Response:
        """Count per API; no coroutine, so that counting many rows happens in a thread and not in the loop."""
        found = self._apis.records.stats()
        for name, most in self._apis.max_in_flight.copy().items():
            now = self._apis.in_flight.get(name, 0)
            found[name] = {**found.get(name, {}), "in_flight": now, "max_in_flight": most}
        return Response(STATS.dump_json(STATS.validate_python(found)), media_type="application/json")

    async def reset(self, _: Request) -> Response:
        """Heal all, forget all."""
        await self._apis.clear()
        return json_response({})


def application(apis: Apis) -> Starlette:
    """Give the whole server: the control endpoints, and every other path as an API."""
    control = Control(apis)
    return Starlette(
        routes=[
            Mount(
                "/_control",
                routes=[
                    Route("/behaviours", control.show, methods=["GET"]),
                    Route("/behaviours", control.add, methods=["POST"]),
                    Route("/behaviours", control.heal, methods=["DELETE"]),
                    Route("/stats", control.stats, methods=["GET"]),
                    Route("/reset", control.reset, methods=["POST"]),
                ],
            ),
            Mount("", app=apis),
        ]
    )


class Server(uvicorn.Server):
    """uvicorn, saying when it is ready and cutting what hangs before it stops."""

    def __init__(self, apis: Apis) -> None:
        super().__init__(
            uvicorn.Config(
                application(apis),
                http=Connection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=75,  # 5 s, the default, cuts idle connections of clients: a fault nobody asked for
                timeout_graceful_shutdown=10,
            )
        )
        self._apis = apis

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, then say where."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()
            print(f"target http://{host}:{port}", flush=True)  # noqa: T201 - the line that `start` waits for

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is answered; what hangs would never be."""
        self._apis.heal()
        await super().shutdown(sockets)


class TargetControl:
    """Breaks, heals and asks a running target; every call raises Unavailable when it does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        # No environment: a proxy in it is not meant for this machine.
        self._http = httpx.Client(base_url=f"{url}/_control", timeout=30, trust_env=False)

    def break_(self, behaviour: Behaviour) -> int:
        """Let an API misbehave from now on; return the behaviour's id."""
        answered = self._ask("POST", "/behaviours", content=BEHAVIOUR.dump_json(behaviour))
        number: int = answered.json()["id"]
        return number

    def heal(self, name: str) -> int:
        """End everything that is wrong with an API, cut what it holds and return how many behaviours that ended."""
        healed: int = self._ask("DELETE", "/behaviours", params={"name": name}).json()["healed"]
        return healed

    def behaviours(self) -> dict[int, Behaviour]:
        """Give what is wrong now, by id, in the order it was added."""
        return BEHAVIOURS.validate_json(self._ask("GET", "/behaviours").content)

    def stats(self) -> dict[str, Stats]:
        """Count per API, for every API that was called."""
        return STATS.validate_json(self._ask("GET", "/stats").content)

    def reset(self) -> None:
        """Heal every API and empty the tables."""
        self._ask("POST", "/reset")

    def close(self) -> None:
        """Close the connection; the target goes on."""
        self._http.close()

    def _ask(
        self, method: str, path: str, *, content: bytes | None = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            return self._http.request(method, path, content=content, params=params).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"the target at {self.url} does not answer: {error}.") from error


class RunningTarget:
    """A target in a process of its own; use it as a context manager, or stop it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self.pid = process.pid
        self.control = TargetControl(url)
        self._process = process

    def stop(self) -> int:
        """Let it finish its answers (SIGTERM) and return its exit code."""
        self._process.terminate()
        return self._end()

    def kill(self) -> None:
        """End it at once (SIGKILL); what it answered is in the file."""
        self._process.kill()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self) -> int:
        self.control.close()
        return self._process.wait()


def start(database: Path, port: int = 0, require: Sequence[str] = ()) -> RunningTarget:
    """Start a target in a process of its own and wait until it answers.

    Args:
        database: the file it records in; what an earlier target recorded there stays, and keys stay used.
        port: 0 takes a free one.
        require: NAME:HEADER:VALUE for every API that asks for an API key.

    Raises:
        Unavailable: it did not start; its own line on stderr says why.
    """
    command = [sys.executable, "-m", "trunkline.dev.target", "--port", str(port), "--database", str(database)]
    command += [f"--require={requirement}" for requirement in require]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
    assert process.stdout is not None
    with process.stdout:
        word, _, url = process.stdout.readline().partition(" ")
    if word != "target":
        raise Unavailable(f"the target did not start (exit code {process.wait()}); its line above says why.")
    return RunningTarget(process, url.strip())


def main() -> None:
    """Serve until SIGTERM or SIGINT; exit 2 when the port is taken or the file is no database."""
    parser = argparse.ArgumentParser(prog="python -m trunkline.dev.target", description="Stand for remote APIs.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--database", type=Path, required=True, help="the SQLite file that witnesses read")
    parser.add_argument(
        "--require",
        type=read_requirement,
        action="append",
        default=[],
        metavar="NAME:HEADER:VALUE",
        help="answer 401 to requests of this API without this header; repeatable",
    )
    arguments = parser.parse_args()
    try:
        listener = socket.create_server(("127.0.0.1", arguments.port))
    except (OSError, OverflowError):
        parser.exit(
            2, f"target: port {arguments.port} is taken, or not ours to take. Choose another with --port, or 0.\n"
        )
    try:
        records = Records(arguments.database)
    except (OSError, sqlite3.Error) as error:
        parser.exit(2, f"target: {arguments.database} cannot be used ({error}). Choose another with --database.\n")
    # uvicorn raises the signal again once it has stopped; by then there is nothing left to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with closing(records), listener:
        Server(Apis(records, arguments.require)).run(sockets=[listener])


if __name__ == "__main__":
    main()
