"""Data that remember which of their fields were read: what a route saw when it decided."""

from collections.abc import Iterator
from typing import Any


class Saw:
    """The fields that were read, by JSON pointer: of a container only that it is empty."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}

    def watch(self, value: Any, at: str = "") -> Any:
        """Give a value that notes here what is read of it."""
        match value:
            case dict() if value:
                return Fields(value, self, at)
            case list() if value:
                return Items(value, self, at)
            case _:
                self.fields[at] = value
                return value


class Fields(dict[str, Any]):
    """A record whose reader is watched."""

    def __init__(self, value: dict[str, Any], saw: Saw, at: str) -> None:
        super().__init__(value)
        self._saw, self._at = saw, at

    def __getitem__(self, name: str) -> Any:
        return self._saw.watch(super().__getitem__(name), f"{self._at}/{name}")

    def get(self, name: str, default: Any = None) -> Any:
        """Give a field, or something else where there is none."""
        return self._saw.watch(super().get(name, default), f"{self._at}/{name}")


class Items(list[Any]):
    """A list whose reader is watched."""

    def __init__(self, value: list[Any], saw: Saw, at: str) -> None:
        super().__init__(value)
        self._saw, self._at = saw, at

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return found if isinstance(index, slice) else self._saw.watch(found, f"{self._at}/{index}")

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(super().__iter__()):
            yield self._saw.watch(value, f"{self._at}/{index}")
