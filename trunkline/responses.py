"""What comes back: the answers of targets, and how their bodies are read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeVar

from trunkline.errors import Unknown
from trunkline.formats import form, json, multipart, xml
from trunkline.formats.plain import CHARSET, decoded
from trunkline.verdict import judge

T = TypeVar("T")

Headers = Mapping[str, str]
NOTHING: Headers = MappingProxyType({})
KINDS = {
    "json": re.compile(r"(?i)[\w.-]+/([\w.-]+\+)?json\s*(;|,|$)"),
    "xml": re.compile(r"(?i)[\w.-]+/([\w.-]+\+)?xml\s*(;|,|$)"),
    "form": re.compile(r"(?i)application/x-www-form-urlencoded\s*(;|,|$)"),
    "multipart": re.compile(r"(?i)multipart/[\w-]+\s*(;|$)"),
    "text": re.compile(""),
}
"""The content types under which an answer is read (RFC 6838 §4.2.8 for +json and +xml)."""
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

    def xml(self, names: xml.Scope = xml.NOTHING) -> dict[str, Any]:
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
