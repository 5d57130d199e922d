"""Trunkline: an event-driven integration bus. This is what `topology.py`, producers and consumers import."""

from trunkline.errors import Halt, Permanent, Poison, Rejected, Retryable, TopologyError, TrunklineError, Unknown
from trunkline.event import Drop, Event, Moment, Stream
from trunkline.flow.credentials import (
    ApiKey,
    Basic,
    Bearer,
    ClientCredentials,
    Hmac,
    RefreshToken,
    Rotation,
    SignedWebhook,
)
from trunkline.flow.declare import (
    Agent,
    Breaker,
    Bus,
    Deliver,
    Enrich,
    Limit,
    Lookup,
    Process,
    Publish,
    Table,
    Target,
    Tls,
    Topic,
    days,
    minutes,
    wait,
)
from trunkline.flow.where import Where, first_match
from trunkline.settings import Secret, env
from trunkline.verdict import Delivered, Retry, Superseded

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "ApiKey",
    "Basic",
    "Bearer",
    "Breaker",
    "Bus",
    "ClientCredentials",
    "Deliver",
    "Delivered",
    "Drop",
    "Enrich",
    "Event",
    "Halt",
    "Hmac",
    "Limit",
    "Lookup",
    "Moment",
    "Permanent",
    "Poison",
    "Process",
    "Publish",
    "RefreshToken",
    "Rejected",
    "Retry",
    "Retryable",
    "Rotation",
    "Secret",
    "SignedWebhook",
    "Stream",
    "Superseded",
    "Table",
    "Target",
    "Tls",
    "Topic",
    "TopologyError",
    "TrunklineError",
    "Unknown",
    "Where",
    "days",
    "env",
    "first_match",
    "minutes",
    "wait",
]
