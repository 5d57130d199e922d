"""The ledger: what has been delivered, claimed and replayed. One database, small modules over it, one for each kind."""

from trunkline import settings
from trunkline.ledger.database import Ledger
from trunkline.ledger.postgres import Server
from trunkline.ledger.sqlite import File


def reach(where: settings.Ledger) -> Ledger:
    """Give the ledger that the settings name; it is opened when something connects.

    Raises:
        UsageError: the address is none.
    """
    return File(where.path) if where.url is None else Server(where.url)
