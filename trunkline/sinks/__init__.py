"""Kits for sinks: what a consumer builds on."""

from trunkline.adapters import Idempotency, Item, Request, Response
from trunkline.sinks.http import HttpSink

__all__ = ["HttpSink", "Idempotency", "Item", "Request", "Response"]
