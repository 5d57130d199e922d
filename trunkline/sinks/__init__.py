"""Kits for sinks: what a consumer builds on."""

from trunkline.adapters import Request, Response
from trunkline.sinks.http import HttpSink

__all__ = ["HttpSink", "Request", "Response"]
