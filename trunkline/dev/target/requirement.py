"""The API key that an API asks for."""

import argparse
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Requirement:
    """The API key one API asks for."""

    name: str
    header: str
    value: str = field(repr=False)

    def met(self, headers: Mapping[str, str]) -> bool:
        """Tell whether the request carries it."""
        return hmac.compare_digest(headers.get(self.header, "").encode(), self.value.encode())


def read_requirement(text: str) -> Requirement:
    """Read NAME:HEADER:VALUE; the value may contain colons and is in no message.

    Raises:
        argparse.ArgumentTypeError: a part is missing.
    """
    parts = text.split(":", 2)
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError("takes NAME:HEADER:VALUE, and a part is missing")
    return Requirement(*parts)
