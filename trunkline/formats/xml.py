"""XML as a tree of plain values, both ways: what the tree says is what is sent, in its order.

    {"order": {                            <order xmlns="urn:orders" id="7">
        "@xmlns": "urn:orders",              <line><code>a</code></line>
        "@id": 7,                            <line><code>b</code></line>
        "line": [{"code": "a"},              <note lang="de">bald</note>
                 {"code": "b"}],           </order>
        "note": {"@lang": "de", "#text": "bald"},
        "gift": None}}

The only name of the outermost mapping is the root. `@name` is an attribute, `#text` the text of an element that has
attributes too; a list is an element repeated; None is left out, "" is an empty element. `@xmlns` and `@xmlns:prefix`
declare namespaces from there inwards, and names are written as prefix:name. Where elements of several names alternate,
or text stands between them, `#content` is the list of all of them: texts, and mappings of one name.
"""

import codecs
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lxml import etree

from trunkline.errors import Permanent, UsageError
from trunkline.formats.plain import DEEPEST, MOST, encoding_of, sized, text_of

Tree = Mapping[str, Any]
Scope = Mapping[str, str]
NOTHING: Scope = MappingProxyType({})
XML = "http://www.w3.org/XML/1998/namespace"
NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
"""The attribute by which an element has no value (XSD 1.1 part 1 §2.7.2)."""
SAFE: Mapping[str, Any] = {"resolve_entities": "internal", "no_network": True, "load_dtd": False, "huge_tree": False}
"""Nothing is fetched. Entities of the document's own are not refused here (else lxml gives `&amp;` in an attribute as
`&#38;`), but with the DTD that would have to declare them."""

STRUCTURE = ("SCHEMAV_ELEMENT_CONTENT", "SCHEMAV_CVC_COMPLEX_TYPE", "SCHEMAV_CVC_ELT_1")
"""The kinds of libxml2's schema errors that speak of elements and attributes only."""
VALUE = re.compile(r"(?:\[facet '\w+'\] )?(?:The value )?'.*' (is (?:not|less|greater) .*)", re.DOTALL)
"""How the others quote a value, up to the last words of this kind: no value can pretend to have ended before."""


@dataclass(frozen=True)
class Xsd:
    """An XML Schema that bodies have to fit before they are sent, read from a file when the sink is declared.

    Raises:
        UsageError: there is no such file, or it is no schema.
    """

    path: Path | str
    _schema: etree.XMLSchema = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            document = etree.parse(str(self.path), etree.XMLParser(**SAFE))
            object.__setattr__(self, "_schema", etree.XMLSchema(document))
        except (OSError, etree.LxmlError) as error:
            raise UsageError(f"{self.path} cannot be read as an XML schema: {error}. Correct the file.") from None

    def check(self, root: etree._Element) -> None:
        """Pass a document that fits.

        Raises:
            Permanent: it does not; the message names the first place and what it expects, without the values there.
        """
        if not self._schema.validate(root):
            first = self._schema.error_log[0]
            raise Permanent(f"the body does not fit {Path(self.path).name}: {first.path}: {wordless(first)}")


def dumps(tree: Tree, schema: Xsd | None = None) -> bytes:
    """Write a tree as an XML document in UTF-8; check it against a schema when there is one.

    Raises:
        Permanent: it has no such form, or does not fit the schema; the message says where.
    """
    names = [name for name, value in tree.items() if value is not None and not isinstance(value, list | tuple)]
    if len(tree) != 1 or len(names) != 1:
        raise Permanent(f"the body is no XML: it has {len(tree)} roots, or one that is None or a list")
    root = element(None, names[0], tree[names[0]], {"xml": XML}, names[0])
    if schema is not None:
        schema.check(root)
    document: bytes = etree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return document


def add(parent: etree._Element, name: str, value: Any, scope: Scope, path: str) -> None:
    """Add the elements of a name: none for None, one for each of a list."""
    match value:
        case None:
            pass
        case list() | tuple():
            for at, each in enumerate(value):
                if each is not None:
                    element(parent, name, each, scope, f"{path}[{at}]")
        case _:
            element(parent, name, value, scope, path)


def element(parent: etree._Element | None, name: str, value: Any, scope: Scope, path: str) -> etree._Element:
    """Make one element, its attributes and everything in it.

    Raises:
        Permanent: it cannot be written.
    """
    if path.count(".") >= DEEPEST:
        raise Permanent(f"the body is no XML: it is nested deeper than {DEEPEST} levels")
    parts: Tree = value if isinstance(value, Mapping) else {"#text": value}
    declared = {key[7:]: written(uri, f"{path}.{key}") for key, uri in parts.items() if declares(key)}
    scope = {**scope, **declared} if declared else scope
    try:
        tag = qualified(name, scope, scope.get(""))
        spaces = {prefix or None: uri for prefix, uri in declared.items()}
        made = etree.Element(tag, nsmap=spaces) if parent is None else etree.SubElement(parent, tag, nsmap=spaces)
        for key, each in parts.items():
            if key.startswith("@") and not declares(key) and each is not None:
                made.set(qualified(key[1:], scope, None), written(each, f"{path}.{key}"))
        for key, each in parts.items():
            match key:
                case "#text":
                    append(made, written(each, path))
                case "#content":
                    for one in each:
                        if isinstance(one, Mapping):
                            for within, inner in one.items():
                                add(made, within, inner, scope, f"{path}.{within}")
                        else:
                            append(made, written(one, path))
                case _ if not key.startswith("@"):
                    add(made, key, each, scope, f"{path}.{key}")
    except (AttributeError, TypeError, ValueError) as error:
        raise Permanent(f"the body is no XML: {path}: {error}") from None
    return made


def written(value: object, path: str) -> str:
    """Write the text of an element or attribute."""
    try:
        return text_of(value)
    except Permanent as error:
        raise Permanent(f"the body is no XML: {path} {error}") from None


def append(made: etree._Element, text: str) -> None:
    """Put text behind what an element has."""
    if not text:
        return
    if len(made):
        made[-1].tail = (made[-1].tail or "") + text
    else:
        made.text = (made.text or "") + text


def declares(key: str) -> bool:
    """Say whether a key declares a namespace."""
    return key == "@xmlns" or key.startswith("@xmlns:")


def qualified(name: str, scope: Scope, default: str | None) -> str:
    """Give a name with the namespace of its prefix.

    Raises:
        ValueError: its prefix is not declared.
    """
    prefix, colon, local = name.rpartition(":")
    if name.startswith("{"):
        return name
    if colon and prefix not in scope:
        raise ValueError(f'the prefix of {name} is not declared; say "@xmlns:{prefix}"')
    space = scope[prefix] if colon else default
    return f"{{{space}}}{local}" if space else local


def wordless(error: etree._LogEntry) -> str:
    """Say what a schema has against a document without the values there, which may be a person's; names stay."""
    message: str = error.message
    place, _, said = message.partition(": ")
    if error.type_name.startswith(STRUCTURE) or "The value has a length of" in said:
        return message
    quoted = VALUE.fullmatch(said)
    told = f"the value {quoted[1]}" if quoted else re.sub(r"['\[].*['\]]", "…", said, flags=re.DOTALL)
    return f"{place}: {told}"


def loads(body: bytes, charset: str | None = None, names: Scope = NOTHING) -> dict[str, Any]:
    """Read an XML document as the tree that would write it: every text is a str, an element without content is "".

    `charset` is what the transport says of it (RFC 7303: it counts for more than the document's own word). `names` are
    the prefixes under which the reader wants to see namespaces, "" for none: the sender's own prefixes mean nothing.
    Names in other namespaces are {namespace}name. Comments, processing instructions and indentation are left out.

    Raises:
        ValueError: it is no XML, has a DTD (so no entity is ever read), is longer than 1 MiB, nested deeper than 64
            levels, or has more than 20,000 elements and attributes.
    """
    sized(body)
    try:
        tree: dict[str, Any] = etree.fromstring(body, parser_of(body, charset, Builder(names)))
    except etree.XMLSyntaxError as error:
        raise ValueError(f"it is no XML: {told(error)}") from None
    return tree


def parser_of(body: bytes, charset: str | None, target: "Builder | None" = None) -> etree.XMLParser:
    """Make what reads a document of a charset, which its byte order mark or its own word say when nothing else does.

    Raises:
        ValueError: the charset is none that is read.
    """
    encoding = encoding_of(charset) if charset else None
    if body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = None  # a byte order mark counts for more than any word
    return etree.XMLParser(target=target, encoding=encoding, **SAFE)


def told(error: etree.XMLSyntaxError) -> str:
    """Say what is wrong with a document and where, without a word of its own: `line 3, tag name mismatch`."""
    kind = etree.ErrorTypes._getName(error.code, "ERR_UNKNOWN")  # noqa: SLF001 - as lxml's own log entries do
    return f"line {error.lineno}, {kind.removeprefix('ERR_').replace('_', ' ').lower()}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element is, and where those inside it are, by name and in their order."""

    line: int
    inner: dict[str, list["Place"]] = field(default_factory=dict)

    def line_of(self, path: Sequence[str | int]) -> int:
        """Give the line of what a path of names and numbers leads to, of the last element on it that there is."""
        here, found = self, [self]
        for part in path:
            if isinstance(part, str):
                found = here.inner.get(part, [])
            at = part if isinstance(part, int) else 0
            if at >= len(found):
                break
            here = found[at]
        return here.line


def places(body: bytes, charset: str | None = None, names: Scope = NOTHING) -> Place:
    """Give where everything is in a document that `loads` has read: its root is the only element inside."""
    builder = Builder(names)

    def place(element: etree._Element) -> Place:
        found = Place(element.sourceline or 1)
        for each in element.iterchildren("*"):
            found.inner.setdefault(builder.name(each.tag), []).append(place(each))
        return found

    root = etree.fromstring(body, parser_of(body, charset))
    return Place(1, {builder.name(root.tag): [place(root)]})


@dataclass(slots=True)
class Node:
    """An element that is being read."""

    name: str
    attributes: dict[str, str]
    content: list[str | dict[str, Any]] = field(default_factory=list)

    def value(self) -> Any:
        """Give what the element is in a tree."""
        inner = [one for one in self.content if not isinstance(one, str)]
        texts = [one for one in self.content if isinstance(one, str)]
        if not inner:
            text = "".join(texts)
            return {**self.attributes, "#text": text} if self.attributes and text else self.attributes or text
        names = [name for one in inner for name in one]
        together = len([name for name, _ in itertools.groupby(names)]) == len(set(names))
        if not together or any(not text.isspace() for text in texts):
            return {**self.attributes, "#content": self.content}
        found: dict[str, Any] = dict(self.attributes)
        for name, run in itertools.groupby(inner, key=lambda one: next(iter(one))):
            values = [one[name] for one in run]
            found[name] = values if len(values) > 1 else values[0]
        return found


class Builder:
    """Makes a tree of what lxml's parser reads (its target interface), and ends the reading of what is hostile."""

    def __init__(self, names: Scope) -> None:
        self._prefixes = {uri: prefix for prefix, uri in names.items()}
        self._open = [Node("", {})]
        self._count = 0

    def doctype(self, _name: str, _public: str | None, _system: str | None) -> None:
        """Refuse a document that has a DTD, before anything of it is read."""
        raise ValueError("it has a DTD, which is never read")

    def start(self, tag: str, attributes: Mapping[str, str], spaces: Mapping[str | None, str]) -> None:
        """Begin an element."""
        self._count += 1 + len(attributes) + len(spaces)
        if self._count > MOST:
            raise ValueError(f"it has more than {MOST:,} elements and attributes")
        if len(self._open) > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        named = {f"@{self.name(name)}": value for name, value in attributes.items()}
        self._open.append(Node(self.name(tag), named))

    def data(self, text: str) -> None:
        """Take text, which comes in any number of pieces."""
        content = self._open[-1].content
        if content and isinstance(content[-1], str):
            content[-1] += text
        else:
            content.append(text)

    def end(self, _tag: str) -> None:
        """End an element."""
        node = self._open.pop()
        self._open[-1].content.append({node.name: node.value()})

    def close(self) -> dict[str, Any]:
        """Give the tree, an empty one when the reading has ended before the root was closed."""
        root = self._open[0].content[-1:]
        return root[0] if root and isinstance(root[0], dict) else {}

    def name(self, tag: str) -> str:
        """Give a name under the reader's prefix of its namespace."""
        space, brace, local = tag[1:].partition("}") if tag.startswith("{") else ("", "", tag)
        if space == XML:
            return f"xml:{local}"
        prefix = self._prefixes.get(space) if brace else ""
        return tag if prefix is None else f"{prefix}:{local}" if prefix else local
