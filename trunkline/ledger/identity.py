"""Identity: which ledger this is, so that an absent or a foreign one is not taken for the bus's own (L3)."""

import secrets
from dataclasses import dataclass

from trunkline.ledger.database import Connection


@dataclass(frozen=True, slots=True)
class Identity:
    """A ledger's random id; a ledger that is made again for the same bus has a higher epoch."""

    id: str
    epoch: int


def read(db: Connection) -> Identity | None:
    """Give the ledger's identity; None while it has none."""
    rows = db.run("SELECT id, epoch FROM identity")
    return Identity(*rows[0]) if rows else None


def create(db: Connection, epoch: int = 1) -> Identity:
    """Give the ledger an identity, or return the one that it has."""
    db.run("INSERT INTO identity VALUES (1, ?, ?) ON CONFLICT DO NOTHING", secrets.token_hex(16), epoch)
    found = read(db)
    assert found is not None  # written above, by us or before us
    return found
