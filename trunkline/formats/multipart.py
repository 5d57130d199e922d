"""Bodies of several parts (RFC 2046 §5.1): out, forms with files (RFC 7578), always as the same bytes; in, any."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.errors import Permanent
from trunkline.formats import json, xml
from trunkline.formats.plain import MOST, sized, text_of

QUOTED = {ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}
"""How a name is written between quotes (WHATWG HTML, multipart/form-data encoding)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part with a content type, and a file's name when it is one: `Part(scan, "image/png", filename="7.png")`."""

    content: bytes
    type: str
    filename: str = ""

    @classmethod
    def json(cls, value: Any) -> "Part":
        """Make a part of JSON."""
        return cls(json.dumps(value), "application/json")

    @classmethod
    def xml(cls, tree: xml.Tree, schema: xml.Xsd | None = None) -> "Part":
        """Make a part of XML."""
        return cls(xml.dumps(tree, schema), "application/xml")


def dumps(parts: Mapping[str, object]) -> tuple[bytes, str]:
    """Write parts in their order, and say the boundary between them; a list is a part repeated, None is left out.

    A part is a Part or a plain value. The boundary is a digest of what it bounds, so that every attempt sends the same
    bytes, and nothing can be written that holds it.

    Raises:
        Permanent: a part cannot be written; the message names it.
    """
    written = [
        head_and_content(name, each)
        for name, value in parts.items()
        for each in (value if isinstance(value, list | tuple) else [value])
        if each is not None
    ]
    if not written:
        raise Permanent("the parts cannot be written: there are none")
    digest = hashlib.sha256()
    for each in written:
        digest.update(len(each).to_bytes(8) + each)
    boundary = digest.hexdigest()[:48]
    line = f"--{boundary}".encode()
    return b"".join(line + b"\r\n" + each + b"\r\n" for each in written) + line + b"--\r\n", boundary


def head_and_content(name: str, value: object) -> bytes:
    """Write one part without its boundary."""
    head = f'Content-Disposition: form-data; name="{name.translate(QUOTED)}"'
    part = value if isinstance(value, Part) else None
    if part is not None and part.filename:
        head += f'; filename="{part.filename.translate(QUOTED)}"'
    if part is not None:
        head += f"\r\nContent-Type: {part.type}"
    if part is not None and not part.type.isprintable():
        why = "has a content type that is no header's value"
    else:
        try:
            return f"{head}\r\n\r\n".encode() + (text_of(value).encode() if part is None else part.content)
        except UnicodeEncodeError:
            why = "holds half a surrogate pair"
        except Permanent as error:
            why = str(error)
    raise Permanent(f"the parts cannot be written: {name!r} {why}")


def loads(body: bytes, boundary: str) -> list[tuple[dict[str, str], bytes]]:
    """Read the parts of a body: the headers of each, their names in lower case, and its content.

    Raises:
        ValueError: it does not end with its boundary, is longer than 1 MiB, has more than 20,000 parts, or one whose
            headers do not end.
    """
    sized(body)
    if not 0 < len(boundary) <= 70:
        raise ValueError("its content type names no boundary")
    line = b"\r\n--" + boundary.encode()
    _, *parts = (b"\r\n" + body).split(line, MOST + 1)
    whole = next((at for at, part in enumerate(parts) if part.startswith(b"--")), None)
    if whole is None:
        raise ValueError("it does not end with its boundary")
    return [(headers_of(head), content) for head, content in map(halves, parts[:whole])]


def halves(part: bytes) -> tuple[bytes, bytes]:
    """Split a part into headers and content."""
    head, empty, content = part.partition(b"\r\n\r\n")
    if not empty or head.partition(b"\r\n")[0].strip(b" \t"):
        raise ValueError("a part of it has no end of its headers")
    return head, content


def headers_of(head: bytes) -> dict[str, str]:
    """Read the headers of a part; a line that is none is left out, as an HTTP client would."""
    lines = (line.partition(":") for line in head.decode(errors="replace").split("\r\n"))
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon}
