"""A sink for what takes several calls: each made once, in the order of what it needs, and taken back when one fails."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from trunkline.event import Event
from trunkline.flow.composite import Call, OnFailure, Outcome
from trunkline.flow.declare import Target, Topic, minutes
from trunkline.sinks.http import HttpSink


class CompositeSink(HttpSink):
    """Several calls for one event: say which, and what each needs.

        class Trip(CompositeSink):
            name = "trip"
            calls = (
                Call("flight", book_flight, undo=cancel_flight, keep=["booking"]),
                Call("hotel", book_hotel, undo=cancel_hotel, keep=["booking"]),
                Call("car", book_car, needs=["flight"]),
            )

    Calls that need nothing of each other are made at the same time. Each has an idempotency key and a row in the ledger
    of its own, written before and after it: a retry, a restart or a replay goes on where it stood, and a call that is
    done is never made again. So the targets must take keys in a header.

    When a target refuses a call for good, or not all is done `deadline` after the first call, `on_failure` says what
    becomes of the rest. "compensate": whatever may have been done is undone, once and in reverse order, and the event
    becomes a dead letter; a replay of it begins anew. "continue": what does not need that call is still made, and the
    event is delivered in part, unless nothing was done. "dead_letter": the event becomes one at once, and its replay
    goes on with what is missing.

    With a topic for `results`, `result` says what is published there at the end.
    """

    calls: ClassVar[Sequence[Call]] = ()
    on_failure: ClassVar[OnFailure] = "compensate"
    deadline: ClassVar[timedelta] = minutes(5)

    def __init__(self, target: Target, *, results: Topic | None = None, **others: Target) -> None:
        """Call `target`, but for the calls that are named with a target of their own."""
        super().__init__(target)
        self.results = results
        self.others = others

    def target_of(self, call: str) -> Target:
        """Give the target that a call goes to."""
        return self.others.get(call, self.target)

    def result(self, event: Event[Any], outcome: Outcome) -> Mapping[str, Any]:
        """Say what is published of the end. Pure: after a crash it is asked again, and the record must be the same."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its result is")
