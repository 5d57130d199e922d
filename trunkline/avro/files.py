"""Schema files: `schemas/<name>.v<N>.avsc`, one released version a file, and the types that belong to them."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trunkline.errors import UsageError

SCHEMAS = Path("schemas")
"""Where a project has them."""
FILE = re.compile(r"(?P<name>[a-z][a-z0-9_]*)\.v(?P<version>[1-9][0-9]*)\.avsc")


@dataclass(frozen=True, slots=True)
class Schema:
    """One released version of a record."""

    name: str
    version: int
    path: Path
    definition: Mapping[str, Any] = field(compare=False, repr=False)
    package: str = field(default="schemas", compare=False)
    """The Python package that the file lies in."""

    @property
    def text(self) -> str:
        """The definition as compact JSON with sorted keys: what a registry stores."""
        return canonical(self.definition)

    @property
    def type_name(self) -> str:
        """The name of the generated type: `order_placed.v1.avsc` gives OrderPlacedV1."""
        return "".join(part.capitalize() for part in self.name.split("_")) + f"V{self.version}"

    @property
    def event_type(self) -> str:
        """The CloudEvents type of an event with this schema, such as `orders.OrderPlaced.v1`."""
        space = self.definition.get("namespace")
        return f"{f'{space}.' if space else ''}{self.definition['name']}.v{self.version}"


def canonical(definition: Mapping[str, Any]) -> str:
    """Write a definition so that equal definitions give equal text."""
    return json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(text: str) -> bytes:
    """Identify a schema's text (I4)."""
    return hashlib.sha256(text.encode()).digest()


def read(path: Path) -> Schema:
    """Read one schema file.

    Raises:
        UsageError: the name has not the form `<name>.v<N>.avsc`, or the content is no Avro record in JSON.
    """
    shown = f"{path.parent.name}/{path.name}"
    if (match := FILE.fullmatch(path.name)) is None:
        raise UsageError(f"{shown}: a schema file is named <name>.v<N>.avsc, such as order_placed.v1.avsc.")
    try:
        definition = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{shown}: no JSON: {error}.") from None
    if not isinstance(definition, dict) or definition.get("type") != "record" or "name" not in definition:
        raise UsageError(f'{shown}: a schema is a JSON object with "type": "record" and a "name".')
    return Schema(match["name"], int(match["version"]), path, definition)


def released(folder: Path) -> list[Schema]:
    """Read every schema of a folder, by name and version."""
    return sorted((read(path) for path in folder.glob("*.avsc")), key=lambda schema: (schema.name, schema.version))


def schema_of(record: type) -> Schema:
    """Give the schema that a generated type was made from: it lies beside the type's module.

    Raises:
        UsageError: the type was not generated from a schema file, or the file is gone.
    """
    module = sys.modules.get(record.__module__)
    file = getattr(module, "__file__", None)
    folder = Path(file).parent if file else None
    match = re.fullmatch(r"(?P<words>[A-Z]\w*?)V(?P<version>[1-9][0-9]*)", record.__name__)
    if folder is None or match is None:
        raise UsageError(f"{record.__name__} is no generated record type; `trunkline schema types` writes them.")
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", match["words"]).lower()
    path = folder / f"{name}.v{match['version']}.avsc"
    if not path.exists():
        raise UsageError(f"{record.__name__}: there is no {path.name} in {folder.name}/. Add it, or take another.")
    return replace(read(path), package=record.__module__)
