"""Trunkline: an event-driven integration bus. This is what `topology.py`, producers and consumers import."""

from trunkline.errors import Halt, Permanent, Poison, Rejected, Retryable, TopologyError, TrunklineError, Unknown
from trunkline.event import Drop, Event
from trunkline.flow.declare import (
    ApiKey,
    Bus,
    Deliver,
    Enrich,
    Limit,
    Process,
    Publish,
    Table,
    Target,
    Topic,
    days,
    minutes,
)
from trunkline.settings import Secret, env
from trunkline.verdict import Delivered, Retry, Superseded

__version__ = "0.1.0"

__all__ = [
    "ApiKey",
    "Bus",
    "Deliver",
    "Delivered",
    "Drop",
    "Enrich",
    "Event",
    "Halt",
    "Limit",
    "Permanent",
    "Poison",
    "Process",
    "Publish",
    "Rejected",
    "Retry",
    "Retryable",
    "Secret",
    "Superseded",
    "Table",
    "Target",
    "Topic",
    "TopologyError",
    "TrunklineError",
    "Unknown",
    "days",
    "env",
    "minutes",
]
