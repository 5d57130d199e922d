"""A schema registry that speaks Confluent's REST API, such as Confluent's own, Apicurio or Karapace.

A schema is registered under its record's full name (RecordNameStrategy): one subject for a record, whatever topics it
is on. Known ids are cached for ever, "not found" for five seconds (I4).
"""

import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx

from trunkline.avro.codec import Codec
from trunkline.errors import Poison, Unavailable, UnknownSchema, UsageError
from trunkline.redact import keep_password, redact

T = TypeVar("T")

PATIENCE = httpx.Timeout(10.0)
WAITS = httpx.Timeout(4.0)
"""What a flow that has to know a schema waits for it: less than its watchdog does."""
NOT_FOUND_FOR = 5.0
SILENT_FOR = 1.0
"""Seconds after a question without an answer in which no other is asked: flows would wait for each other."""
JSON = "application/vnd.schemaregistry.v1+json"


class Confluent:
    """Schemas by id, and ids by schema; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Prepare; user and password may stand in the address.

        Raises:
            UsageError: it is none; what it may hold of a password is not shown.
        """
        try:
            place = httpx.URL(url)
        except httpx.InvalidURL:
            place = httpx.URL()
        if place.scheme not in ("http", "https") or not place.host:
            told = "the address of the schema registry is none such as https://registry.example.com"
            raise UsageError(f"{told}. A /, @, ? or # in its user or password is written %2F, %40, %3F or %23.")
        keep_password(url)
        self._client = httpx.Client(base_url=url, timeout=PATIENCE, headers={"accept": JSON, "content-type": JSON})
        self._lock = threading.Lock()
        self._ids: dict[str, int] = {}
        self._codecs: dict[int, Codec] = {}
        self._texts: dict[int, str] = {}
        self._missing: dict[int, float] = {}
        self._silent = 0.0

    def id_of(self, text: str) -> int:
        """Give the id of a schema, registered when it is new.

        Raises:
            UsageError: the registry refuses it, as one that is not compatible with an earlier version.
            Unavailable: the registry does not answer.
        """
        with self._lock:
            if text not in self._ids:
                subject = Codec(text).name
                answer = self._ask("POST", f"/subjects/{subject}/versions", {"schema": text})
                if answer.status_code in (409, 422):
                    raise UsageError(f"the registry refuses {subject}: {words(answer)}. Run `trunkline schema check`.")
                self._ids[text] = part(answer, "id", int)
            return self._ids[text]

    def text_of(self, schema_id: int) -> str | None:
        """Give the schema with this id as JSON text, None when there is none.

        Raises:
            Unavailable: the registry does not answer.
        """
        if (text := self._texts.get(schema_id)) is not None:
            return text
        with self._lock:
            if time.monotonic() <= self._missing.get(schema_id, 0.0):
                return None
            if time.monotonic() < self._silent:
                raise Unavailable("the schema registry did not answer a moment ago")
            answer = self._ask("GET", f"/schemas/ids/{schema_id}", timeout=WAITS)
            if answer.status_code == 404:
                now = time.monotonic()
                self._missing = still(self._missing, now) | {schema_id: now + NOT_FOUND_FOR}
                return None
            self._texts[schema_id] = part(answer, "schema", str)
            return self._texts[schema_id]

    def codec_of(self, schema_id: int) -> Codec:
        """Give the codec of the schema with this id.

        Raises:
            UnknownSchema: no schema has this id.
            Poison: what has it is no Avro.
            Unavailable: the registry does not answer.
        """
        if (codec := self._codecs.get(schema_id)) is not None:
            return codec
        return self._codecs.setdefault(schema_id, codec_from(schema_id, self.text_of(schema_id)))

    def close(self) -> None:
        """Leave the registry."""
        self._client.close()

    def _ask(self, method: str, path: str, body: Any = None, *, timeout: httpx.Timeout = PATIENCE) -> httpx.Response:
        try:
            return self._client.request(method, path, json=body, timeout=timeout)
        except httpx.HTTPError as error:
            self._silent = time.monotonic() + SILENT_FOR
            raise Unavailable(f"the schema registry does not answer: {type(error).__name__}") from None


def still(missing: Mapping[int, float], now: float) -> dict[int, float]:
    """Give the ids that are not asked for again yet: whoever names another one in every value fills no memory."""
    return {schema_id: until for schema_id, until in missing.items() if until > now}


def part(answer: httpx.Response, name: str, kind: type[T]) -> T:
    """Give the part of this name of what the registry said.

    Raises:
        Unavailable: it was an error, or has no such part: a proxy before it may answer with a page of its own.
    """
    if answer.status_code != 200:
        raise Unavailable(f"the schema registry answered {answer.status_code}: {words(answer)}")
    try:
        found = answer.json()[name]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, kind):
        raise Unavailable(f"the schema registry answered 200 without the {name} of a schema; it may be none")
    return found


def words(answer: httpx.Response) -> str:
    """Give the registry's words of an error, in one line and no longer than that."""
    try:
        return redact(" ".join(str(answer.json()["message"]).split()))[:200]
    except (ValueError, KeyError, TypeError):
        return "it does not say why"


def codec_from(schema_id: int, text: str | None) -> Codec:
    """Give the codec of a registered schema.

    Raises:
        UnknownSchema: there is none.
        Poison: it is no Avro.
    """
    if text is None:
        raise UnknownSchema(f"the value names schema {schema_id}, which nobody registered")
    try:
        return Codec(text)
    except UsageError as error:
        raise Poison(f"the value names schema {schema_id}, which is {error}") from None
