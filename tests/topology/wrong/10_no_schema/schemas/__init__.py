from typing_extensions import TypedDict


class OrderPlacedV1(TypedDict):
    """A OrderPlaced."""

    id: str


class OrderPlacedV2(TypedDict):
    """Its schema file is missing."""

    id: str


class OddV1(TypedDict):
    """Its schema is no Avro."""

    id: str


class ListV1(TypedDict):
    """Its schema is no record."""

    id: str


class BrokenV1(TypedDict):
    """Its schema is no JSON."""

    id: str
