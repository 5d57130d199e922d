"""What a project's tests need: `walk` a raw request through the bus without any I/O."""

from trunkline.flow.walk import Journey, walk
from trunkline.sinks import Response

__all__ = ["Journey", "Response", "walk"]
