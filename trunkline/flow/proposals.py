"""What a change of the schema files means: which versions cannot be read, and which fields code would miss.

The files are the truth. A version that a git revision has is released and never changes; the next one is a new file.
One that no topic or table holds yet, while an earlier one is held, is proposed: whoever reads the earlier one will get
it. Pure: it is given what the files hold, now and in the revision.
"""

import ast
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trunkline.avro.codec import Codec
from trunkline.avro.compat import clashes, short
from trunkline.avro.files import Schema
from trunkline.avro.types import Writer, module
from trunkline.avro.versions import Function, Leg, legs, module_of
from trunkline.errors import Fault
from trunkline.flow.functions import fields_in

Versions = Sequence[Schema]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What code has of a schema now, and what it is to get."""

    old: Schema
    new: Schema

    @property
    def told(self) -> str:
        """Its name for a person."""
        return f"{self.new.name} v{self.new.version}"


@dataclass(frozen=True, slots=True)
class Gone:
    """A field that a proposal takes away from a record, or gives another type."""

    proposal: Proposal
    type_name: str
    field: str
    before: str
    after: str
    """Its Python type then; "" when it is gone."""
    instead: str
    """The field that has come in its place, as far as one can see."""

    def as_moved(self) -> "Gone":
        """Give what it is for code that has the new version's types already."""
        suffix = f"V{self.proposal.new.version}"
        return replace(self, type_name=f"{self.record}{suffix}", proposal=replace(self.proposal, old=self.proposal.new))

    @property
    def record(self) -> str:
        """The record in the schema that has the field."""
        return re.sub(r"V[0-9]+$", "", self.type_name)


def proposals(files: Versions, revision: Versions, held: Iterable[Schema]) -> list[Proposal]:
    """Find what is proposed; `held` are the schemas of the topics and tables."""
    found = [
        Proposal(before, now) for before in revision for now in files if same(before, now) and before.text != now.text
    ]
    holding = {(one.name, one.version) for one in held}
    for name in sorted({one.name for one in files}):
        versions = [one for one in files if one.name == name]
        newest = versions[-1]
        if (name, newest.version) not in holding:
            found += [Proposal(one, newest) for one in versions[:-1] if (name, one.version) in holding]
    return found


def same(one: Schema, other: Schema) -> bool:
    """Say whether two are the same version of the same schema."""
    return (one.name, one.version) == (other.name, other.version)


def released_faults(files: Versions, revision: Versions, name: str) -> Iterator[Fault]:
    """Find released versions that were changed or taken away; `name` is the revision's."""
    for before in revision:
        where = f"{before.path.parent.name}/{before.path.name}"
        now = next((one for one in files if same(before, one)), None)
        later = max(one.version for one in (*files, before) if one.name == before.name) + 1
        back = f"Put it back (git checkout {name} -- {where})"
        if now is None:
            if any(one.name == before.name for one in files):
                told = f"{before.name} v{before.version} is released and gone; events of it may be on a topic"
                yield Fault(f"{where}:1", f"{told}. {back}.")
        elif now.text != before.text:
            told = f"{before.name} v{before.version} is released and never changes"
            yield Fault(f"{where}:1", f"{told}. {back}, and make the change in {before.name}.v{later}.avsc.")


def version_faults(files: Versions, mode: str, functions: Mapping[str, Mapping[int, Function]]) -> Iterator[Fault]:
    """Find the versions of which one cannot be read as another, in the sense of a mode of compatibility."""
    if mode == "NONE":
        return
    codecs = {(one.name, one.version): Codec(one.text) for one in files}
    for new in files:
        earlier = [one for one in files if one.name == new.name and one.version < new.version]
        for old in earlier if mode.endswith("_TRANSITIVE") else earlier[-1:]:
            if mode.startswith(("BACKWARD", "FULL")):
                yield from backward_faults(new, old, codecs, functions.get(new.name, {}))
            if mode.startswith(("FORWARD", "FULL")):
                for clash in clashes(codecs[old.name, old.version], codecs[new.name, new.version]):
                    told = f"v{old.version} could not read events of v{new.version}: {clash}"
                    yield Fault(line_of(new, clash.field), f"{told}. Mend {new.name}.v{new.version}.avsc.")


def backward_faults(
    new: Schema, old: Schema, codecs: Mapping[tuple[str, int], Codec], functions: Mapping[int, Function]
) -> Iterator[Fault]:
    """Find why events of an older version could not be read as the newer one, functions between them included."""
    for leg in legs(old.version, new.version, functions):
        ends = (new.name, leg.start), (new.name, leg.end)
        if leg.function is None and leg.end == new.version and all(end in codecs for end in ends):
            for clash in clashes(codecs[ends[1]], codecs[ends[0]]):
                told = f"v{new.version} could not read events of v{leg.start}: {clash}"
                yield Fault(line_of(new, clash.field), f"{told}. {remedy(new, leg, clash.message)}.")


def remedy(new: Schema, leg: Leg, message: str) -> str:
    """Say what to do about a clash."""
    function = f"write v{leg.start}_to_v{leg.start + 1} in {module_of(new)}"
    return f"Give it a default, or {function}" if "no default" in message else f"Put it back, or {function}"


def line_of(schema: Schema, field: str) -> str:
    """Give `file:line` of a field in its schema file, of the first line where it is not there."""
    where = f"{schema.path.parent.name}/{schema.path.name}"
    name = re.compile(rf'"name"\s*:\s*"{re.escape(field)}"')
    lines = schema.path.read_text().splitlines()
    return f"{where}:{next((number for number, line in enumerate(lines, 1) if field and name.search(line)), 1)}"


def shapes(schema: Schema) -> dict[str, dict[str, str]]:
    """Give the types of a schema as the generated module has them: the Python type of each field."""
    texts: dict[str, str] = {}
    Writer(schema, texts, set()).record(schema.definition, schema.type_name)
    return {name: fields_in(ast.parse(text), name) for name, text in texts.items()}


def gone_of(proposal: Proposal) -> list[Gone]:
    """Find the fields that a proposal takes away or changes, and what is there instead."""
    before = shapes(proposal.old)
    after = shapes(replace(proposal.old, definition=proposal.new.definition))
    aliases = aliases_of(proposal.new.definition)
    found = []
    for name, fields in before.items():
        if (new := after.get(name)) is None:
            continue
        added = {field: kind for field, kind in new.items() if field not in fields}
        for field, kind in fields.items():
            if new.get(field) != kind:
                instead = aliases.get(field, "") if field not in new else ""
                if field not in new and not instead:
                    alike = [one for one, its in added.items() if its == kind]
                    near = difflib.get_close_matches(field, added, n=1)
                    instead = near[0] if near else alike[0] if len(alike) == 1 else ""
                found.append(Gone(proposal, name, field, kind, new.get(field, ""), instead))
    return found


def aliases_of(definition: object) -> dict[str, str]:
    """Give the fields of a schema by the names that they had before."""
    found: dict[str, str] = {}
    match definition:
        case Mapping():
            for field in definition.get("fields", ()):
                found |= {short(alias): field["name"] for alias in field.get("aliases", ())}
            for inner in definition.values():
                found |= aliases_of(inner)
        case list():
            for inner in definition:
                found |= aliases_of(inner)
    return found


def without(files: Versions, gone: Sequence[Gone]) -> str:
    """Write the module of the types without the fields that are gone or change: whoever reads one does not fit it."""
    edited = {(one.proposal.old.name, one.proposal.old.version): one.proposal.old for one in gone}
    text = module([edited.get((one.name, one.version), one) for one in files])
    for one in gone:
        if one.proposal.old is one.proposal.new:
            continue  # its types lack the field anyway
        head = f"class {one.type_name}(TypedDict):\n"
        start = text.index(head)
        end = text.find("\n\n\n", start)
        body = re.sub(rf"\n    {re.escape(one.field)}: [^\n]*", "", text[start:end], count=1)
        text = text[:start] + body + text[end:]
    return text
