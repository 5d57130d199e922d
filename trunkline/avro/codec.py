"""Values in Confluent wire format: a zero byte, the schema's id as a big-endian int32, the Avro body. Nothing more."""

import copy
import io
import struct
from collections.abc import Mapping
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException

from trunkline.avro.defaults import shares, with_defaults
from trunkline.avro.files import canonical, fingerprint
from trunkline.avro.limits import definition_of, refuse_hostile
from trunkline.avro.logical import NAMED, exact
from trunkline.avro.misfits import misfit
from trunkline.errors import Permanent, Poison, UnknownSchema, UsageError

MAGIC = 0
HEAD = 5
PACK = struct.Struct(">bI").pack


class Codec:
    """Writes and reads values of one schema."""

    def __init__(self, text: str) -> None:
        """Prepare for a schema, whoever wrote it.

        Raises:
            UsageError: it is no Avro schema, or one with which reading could end or swamp the process.
        """
        definition = definition_of(text)
        self.named: dict[str, Any] = {}
        """The types that the schema names."""
        try:
            self.schema = fastavro.parse_schema(definition, self.named)
            refuse_hostile(self.schema, self.named)
            self.name = str(self.schema.get("name", "")) if isinstance(self.schema, dict) else ""
            """The record's full name; "" of what is no record."""
            self.mark = fingerprint(canonical(definition))
            """What equal schemas have in common."""
            self.reads = with_defaults(self.schema)
            """The schema as fastavro is to read with it."""
            self.shares = shares(self.reads)
            """Whether records that lack a field are given a list or a map that all of them share."""
            self._writes = exact(self.reads)
        except UsageError:
            raise
        except (SchemaParseException, RecursionError, ArithmeticError, ValueError, KeyError, TypeError,
                AttributeError, LookupError) as error:  # fmt: skip
            raise UsageError(f"not an Avro schema: {type(error).__name__}: {error}") from None

    def encode(self, value: Mapping[str, Any], schema_id: int) -> bytes:
        """Write a value.

        Raises:
            Permanent: the value has a field the schema has not, lacks one without a default, or one of a wrong type;
                it is told where, and not which value.
        """
        out = io.BytesIO()
        out.write(head_of(schema_id))
        try:
            fastavro.schemaless_writer(out, self._writes, value, strict_allow_default=True)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, ArithmeticError) as error:
            why = misfit(self._writes, value, self._writes.get(NAMED, {})) or type(error).__name__
            raise Permanent(f"the record does not fit its schema: {why}") from None
        return out.getvalue()

    def decode(self, body: bytes, reader: "Codec | None" = None) -> dict[str, Any]:
        """Read a body (without its five bytes) to the end, resolved to `reader`'s schema when that is another one.

        Raises:
            UnknownSchema: the reader's schema cannot be filled from this one.
            Poison: the body is not of this schema, or bytes are left over.
        """
        source = io.BytesIO(body)
        try:
            value = fastavro.schemaless_reader(source, self.reads, None if reader is None else reader.reads)
        except SchemaResolutionError as error:
            raise UnknownSchema(f"it was written with a schema that ours cannot read: {str(error)[:200]}") from None
        except Exception as error:  # noqa: BLE001 - whatever a hostile body makes the decoder raise
            raise Poison(f"the body is no Avro of its schema: {type(error).__name__}: {error}") from None
        if left := len(body) - source.tell():
            raise Poison(f"{left} bytes are left over after the Avro body")
        if not isinstance(value, dict):
            raise Poison("the Avro body is no record")
        return copy.deepcopy(value) if reader is not None and reader.shares else value


def head_of(schema_id: int) -> bytes:
    """Give what a value of this schema begins with."""
    return PACK(MAGIC, schema_id)


def split(value: bytes | None) -> tuple[int, bytes]:
    """Take a record's value apart into schema id and body.

    Raises:
        Poison: there is no value, or it does not begin as Confluent wire format does.
    """
    if value is None:
        raise Poison("the record has no value")
    if len(value) < HEAD or value[0] != MAGIC:
        raise Poison("the value is no Avro in Confluent wire format: it has no zero byte and schema id in front")
    return int.from_bytes(value[1:HEAD], "big"), value[HEAD:]
