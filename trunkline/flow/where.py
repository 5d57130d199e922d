"""Routes with a condition in CEL (cel.dev), which operators read and change: `Where("total > 100.0", record)`.

The fields of the event's data stand in it by their names. Numbers with a point are CEL's double, so is a decimal; dates
and times are texts as in RFC 3339, in UTC: `timestamp(sold_at) > timestamp("2026-01-01T00:00:00Z")`. An expression can
neither call nor change anything; its loops end after 10,000 rounds, and its regular expressions take linear time (RE2).
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from trunkline.errors import Permanent
from trunkline.event import Event
from trunkline.flow.declare import Declared, Route, Topic
from trunkline.flow.functions import name_of

CONTAINER = "of_the_event"
"""Where fields are looked for before CEL's own names: one may be called `type`, `string` or `list`."""
WORD = re.compile(r"""(?<![\w.])(?:[rRbB]{0,2}(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|([A-Za-z_]\w*))""")
"""Strings, which are passed over, and the names that no dot stands before."""


@dataclass(frozen=True, eq=False)
class Where(Declared):
    """A route for the events of which a condition holds: the records that `record` makes, or else the data as they are.

    An event of which it cannot be said whether the condition holds, as where a field is missing, becomes a dead letter.
    `unless` is what `first_match` gives it: an event for which one of these holds has taken that route.
    """

    condition: str
    record: Route | None = None
    unless: "tuple[Where, ...]" = ()

    @property
    def __name__(self) -> str:
        """The name by which it is told of."""
        return "where" if self.record is None else name_of(self.record)

    def __call__(self, event: Event[Any]) -> Iterable[Mapping[str, Any]]:
        """Give the records of an event.

        Raises:
            Permanent: it cannot be said whether the condition holds.
        """
        if any(other.holds(event.data) for other in self.unless) or not self.holds(event.data):
            return ()
        return (event.data,) if self.record is None else self.record(event)

    def holds(self, data: Mapping[str, Any]) -> bool:
        """Say whether the condition holds, whatever other routes there are.

        Raises:
            Permanent: nobody can say.
        """
        names = tuple(name for name in words(self.condition) if name in data)
        try:
            given = {f"{CONTAINER}.{name}": simple(data[name]) for name in names}
            found = program(self.condition, names).eval(data=given)
        except RuntimeError as error:  # it is no CEL, or its loops have no end
            raise Permanent(f"the condition {self.condition} cannot be decided: {first_line(error)}") from None
        value = found.value()
        if not isinstance(value, bool):
            why = (
                first_line(value) if found.type() == library().Type.ERROR else f"it is no yes or no but {found.type()}"
            )
            raise Permanent(f"the condition {self.condition} cannot be decided: {why}")
        return value

    def told(self, data: Mapping[str, Any]) -> str:
        """Say why it takes an event or does not.

        Raises:
            Permanent: nobody can say.
        """
        for other in self.unless:
            if other.holds(data):
                return f"an earlier route took it: {other.condition} is true"
        return f"{self.condition} is {'true' if self.holds(data) else 'false'}"


def first_match(routes: Mapping[Topic, Route]) -> Mapping[Topic, Route]:
    """Let an event take the first route whose condition holds, and no other: for a Process's `to`.

    The last one may be a function without a condition: it gets the rest.
    """
    before: tuple[Where, ...] = ()
    found: dict[Topic, Route] = {}
    for topic, route in routes.items():
        if isinstance(route, Where):
            one = Where(route.condition, route.record, before, where=route.where)
        else:
            one = Where(REST, route, before)
        found[topic] = one
        before = (*before, one)
    return found


REST = "true"
"""The condition of what has none."""


@functools.cache
def words(condition: str) -> tuple[str, ...]:
    """Give the names in a condition that may be fields: those behind no dot and in no string."""
    return tuple(dict.fromkeys(name for name in WORD.findall(condition) if name))


@functools.lru_cache(1024)
def program(condition: str, names: tuple[str, ...]) -> Any:
    """Compile a condition on these fields.

    Raises:
        RuntimeError: it is no CEL, or asks for something else.
    """
    cel = library()
    variables = dict.fromkeys([f"{CONTAINER}.{name}" for name in names], cel.Type.DYN)
    return cel.NewEnv(variables=variables, container=CONTAINER).compile(condition)


def library() -> Any:
    """Give CEL's library."""
    from cel_expr_python import cel  # noqa: PLC0415 - 5 MiB that a bus without conditions does not spend

    return cel


def simple(value: Any) -> Any:
    """Give a value as CEL knows one."""
    match value:
        case Mapping():
            return {name: simple(value[name]) for name in value}
        case list() | tuple():
            return [simple(one) for one in value]
        case Decimal():
            return float(value)
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case datetime() | date() | time():
            return value.isoformat()
        case None | str() | bytes() | bool() | int() | float():
            return value
        case _:
            return str(value)


def first_line(said: object) -> str:
    """Give the first line of what the library says, without the name of its own error."""
    line = str(said).partition("\n")[0].replace(f" (in container '{CONTAINER}')", "")
    return re.sub(r"^[A-Z_]+: (ERROR: <input>:)?|\s*\[[A-Z_]+\]$", "", line)
