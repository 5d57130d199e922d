"""Identity: which ledger this is, so that an absent or a foreign one is not taken for the bus's own (L3)."""

import secrets
from dataclasses import dataclass

from trunkline.errors import UsageError
from trunkline.ledger.database import Connection

BUS = ("CREATE TABLE bus (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL)",)
"""Whose ledger it is: rows name sink, source and event, so that two buses in one would take each other's for theirs."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A ledger's random id; a ledger that is made again for the same bus has a higher epoch."""

    id: str
    epoch: int


def read(db: Connection) -> Identity | None:
    """Give the ledger's identity; None while it has none."""
    rows = db.run("SELECT id, epoch FROM identity")
    return Identity(*rows[0]) if rows else None


def create(db: Connection) -> Identity:
    """Give the ledger an identity of the first epoch, or return the one that it has."""
    db.run("INSERT INTO identity VALUES (1, ?, 1) ON CONFLICT DO NOTHING", secrets.token_hex(16))
    found = read(db)
    assert found is not None  # written above, by us or before us
    return found


def belong(db: Connection, bus: str, ledger: str) -> None:
    """Let the ledger be a bus's own from its first use on; `ledger` names it.

    Raises:
        UsageError: it is another bus's.
    """
    db.run("INSERT INTO bus VALUES (1, ?) ON CONFLICT DO NOTHING", bus)
    [(owner,)] = db.run("SELECT name FROM bus")
    if owner != bus:
        raise UsageError(
            f"{ledger} is the one of bus {owner}; what that has delivered would count as delivered by {bus}. Give "
            f"{bus} its own: another file in TRUNKLINE_LEDGER__PATH, or another database or schema in "
            "TRUNKLINE_LEDGER__URL."
        )
