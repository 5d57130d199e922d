"""What comes in: the requests of those who post events, and how their bodies are read."""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from trunkline.errors import Rejected
from trunkline.formats import json, xml
from trunkline.formats.plain import CHARSET
from trunkline.formats.shapes import fields_of, read_exactly, read_json
from trunkline.formats.typed import typed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A request as it arrived, already verified: header names are lower-case, the body is untouched.

    `at` is what the names of wrong fields begin with: where this stood in a larger request.
    """

    headers: Mapping[str, str]
    body: bytes
    at: str = ""

    def json(self, shape: type[T]) -> T:
        """Read the body as JSON of this shape (a TypedDict); types are strict, unknown fields are ignored.

        A Decimal keeps every digit, whether it comes as a text or as a number; bytes come as base64.

        Raises:
            Rejected: 400 when it is no JSON or names something twice, 422 with every wrong field when it has another
                shape.
        """
        body = self.body.removeprefix(codecs.BOM_UTF8)
        try:
            value = read_exactly(shape, body)
            json.consider(body)
        except ValidationError as error:
            wrong = fields_of(error)
            if wrong and wrong[0][1].startswith("Invalid JSON: "):
                raise self._no("JSON", wrong[0][1]) from None
            raise invalid(wrong, error.error_count(), self.at) from None
        except ValueError as error:
            raise self._no("JSON", f"It cannot be read: {error}") from None
        return value

    def xml(self, shape: type[T], names: xml.Scope = xml.NOTHING) -> T:
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
            raise self._no("XML", f"It cannot be read: {error}") from None
        nil = f"@{xml.Builder(names).name(xml.NIL)}"
        try:
            return read_json(shape, json.dumps(typed(tree, shape, nil)))
        except ValidationError as error:
            found = xml.places(self.body, charset, names)
            wrong = fields_of(error, lambda path: f"line {found.line_of(path)}: ")
            raise invalid(wrong, error.error_count(), self.at) from None

    def _no(self, kind: str, why: str) -> Rejected:
        where = self.at.rstrip(".")
        return Rejected(400, f"The body is no {kind}", f"{f'{where}: ' if where else ''}{why}.")


def invalid(wrong: Sequence[tuple[str, str]], count: int, at: str = "") -> Rejected:
    """Refuse a body that has another shape."""
    wrong = [(placed(at, path) or "the body", message) for path, message in wrong]
    names = ", ".join(path for path, _ in wrong[:5])
    more = f", and {count - len(wrong):,} more fields than are named here" if count > len(wrong) else ""
    return Rejected(422, "The event is not valid", f"Wrong or missing: {names}{more}.", wrong)


def placed(at: str, path: str) -> str:
    """Name a field of what stood somewhere in a request."""
    return at.rstrip(".") + path if path.startswith("[") or not path else at + path
