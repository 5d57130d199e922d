"""What a project's tests need: `walk` a raw request through the bus without any I/O."""

from trunkline.flow.journey import Journey
from trunkline.flow.walk import walk
from trunkline.sinks import Response

__all__ = ["Journey", "Response", "walk"]
