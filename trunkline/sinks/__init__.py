"""Kits for sinks: what a consumer builds on."""

from trunkline.adapters import Item
from trunkline.flow.composite import Answers, Call, Outcome
from trunkline.formats.json import Number
from trunkline.formats.multipart import Part
from trunkline.formats.xml import Xsd
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response
from trunkline.sinks.composite import CompositeSink
from trunkline.sinks.http import Calls, HttpSink, if_match

__all__ = [
    "Answers",
    "Call",
    "Calls",
    "CompositeSink",
    "HttpSink",
    "Idempotency",
    "Item",
    "Number",
    "Outcome",
    "Part",
    "Request",
    "Response",
    "Xsd",
    "if_match",
]
