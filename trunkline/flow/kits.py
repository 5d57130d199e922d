"""Mistakes in what sinks of more than one call say, and what is right but will surprise somebody."""

import inspect
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, get_args

from trunkline.errors import Fault, Faults
from trunkline.flow.composite import Call, Composite, OnFailure, ordered
from trunkline.flow.declare import Bus, Deliver, Target
from trunkline.flow.functions import argument, data_of, name_of, takes
from trunkline.flow.records import fits
from trunkline.flow.values import NAME, attribute, is_kits, listed


def kit_faults(flow: Deliver) -> Faults:
    """Find what is wrong with a sink that makes its calls itself, or names several."""
    deliver = attribute(flow.to, "deliver")
    kind = type(flow.to).__name__
    if callable(deliver):
        if not inspect.iscoroutinefunction(deliver):
            yield Fault(flow.where, f"{kind}.deliver is not async. Write it as async def.")
        if not takes(deliver, 2):
            yield Fault(
                flow.where, f"{kind}.deliver is given the event and its calls. Write deliver(self, event, call)."
            )
        yield from reading_faults(flow, f"{kind}.deliver", data_of(argument(deliver, 0)))
        if flow.to.together > 1:
            yield Fault(
                flow.where, f"{kind} has deliver(event, call) and takes {flow.to.together} together. Choose one."
            )
    if isinstance(flow.to, Composite):
        yield from composite_faults(flow, flow.to)


def composite_faults(flow: Deliver, sink: Composite) -> Faults:
    """Find what is wrong with named calls."""
    kind = type(sink).__name__
    calls = sink.calls if isinstance(sink.calls, list | tuple) else ()
    if not calls:
        yield Fault(flow.where, f"{kind} has no calls. Name them: calls = (Call(…), …).")
    if strange := [one for one in calls if not isinstance(one, Call)]:
        yield Fault(flow.where, f"{kind}.calls holds something of type {type(strange[0]).__name__}. Give a Call.")
        return
    if shapeless := [fault for call in calls for fault in shape_faults(flow, kind, call)]:
        yield from shapeless
        return
    names = [call.name for call in calls]
    for call in calls:
        yield from one_faults(flow, kind, call, names)
    if all(set(call.needs) <= set(names) for call in calls) and len(set(names)) == len(names):
        stuck = sorted(set(names) - {call.name for call in ordered(calls)})
        if stuck:
            yield Fault(flow.where, f"{kind}: {', '.join(stuck)} need each other. Take one of the needs out.")
    if sink.on_failure not in get_args(OnFailure):
        yield Fault(
            flow.where, f'the on_failure of {kind} is "{sink.on_failure}". Write {listed(get_args(OnFailure))}.'
        )
    yield from patience_faults(flow, kind, sink.deadline)
    yield from place_faults(flow, kind, names)


def shape_faults(flow: Deliver, kind: str, call: Call) -> Faults:
    """Find the wrongly typed values of a call."""
    if not isinstance(call.name, str) or not NAME.fullmatch(call.name):
        yield Fault(flow.where, f'{kind}: "{call.name}" names no call. Use a-z, 0-9, dots, hyphens and underscores.')
    for what, given in (("needs", call.needs), ("keep", call.keep)):
        if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
            yield Fault(flow.where, f'{kind}: the {what} of {call.name} is no list of names. Write {what}=["…"].')


def one_faults(flow: Deliver, kind: str, call: Call, names: list[str]) -> Faults:
    """Find what is wrong with one call."""
    if names.count(call.name) > 1:
        yield Fault(flow.where, f"{kind} has two calls of the name {call.name}. Rename one.")
    for needed in call.needs:
        if needed not in names:
            yield Fault(flow.where, f"{kind}: {call.name} needs {needed}, which is none of {', '.join(names)}.")
    for what, ask in (("request", call.request), ("undo", call.undo)):
        if ask is None and what == "undo":
            continue
        if not callable(ask) or inspect.iscoroutinefunction(ask) or not takes(ask, 2):
            told = "cannot be called with the event and the answers"
            yield Fault(flow.where, f"{kind}: the {what} of {call.name} {told}. Write def {what}(event, answers).")
        else:
            yield from reading_faults(flow, f"{name_of(ask)} of {kind}", data_of(argument(ask, 0)))


def patience_faults(flow: Deliver, kind: str, deadline: Any) -> Faults:
    """Find that a composite would be given up by its flow before it has given up itself."""
    if not isinstance(deadline, timedelta) or deadline <= timedelta(0):
        yield Fault(flow.where, f"the deadline of {kind} is no duration above 0. Give one such as minutes(5).")
    elif deadline >= flow.retry.give_up_after:
        told = f"the deadline of {kind} is {deadline}, and the flow gives up after {flow.retry.give_up_after}"
        yield Fault(flow.where, f"{told}: nothing would be undone. Shorten it, or lengthen Retry's give_up_after.")


def place_faults(flow: Deliver, kind: str, names: list[str]) -> Faults:
    """Find what is wrong with a composite's targets, keys and results."""
    others = attribute(flow.to, "others")
    for name, target in others.items() if isinstance(others, Mapping) else ():
        if name not in names:
            yield Fault(flow.where, f"{kind} is given a target for {name}, which is none of {', '.join(names)}.")
        elif not isinstance(target, Target):
            yield Fault(
                flow.where, f"{kind} is given something of type {type(target).__name__} for {name}. Give a Target."
            )
    if flow.to.idempotency is None or flow.to.idempotency.header is None:
        told = "a call whose end is unknown is made again under its key"
        yield Fault(flow.where, f"{kind} has calls and no idempotency header: {told}. Name the header.")
    if attribute(flow.to, "results") is not None and is_kits(attribute(flow.to, "result")):
        yield Fault(
            flow.where, f"{kind} is given results and does not say what they are. Write result(event, outcome)."
        )


def reading_faults(flow: Deliver, told: str, wanted: Any) -> Faults:
    """Find that code reads other events than the topic holds."""
    if not fits(flow.topic.record, wanted):
        gives = f"{flow.topic.name} holds {flow.topic.record.__name__}"
        yield Fault(flow.where, f"{told} reads {wanted.__name__}; {gives}. Change the annotation, or the topic.")


def warnings(bus: Bus, kept: timedelta) -> list[Fault]:
    """Name what is allowed and will surprise somebody; `kept` is how long dead letters are."""
    found = []
    for flow in bus.delivering.values():
        given = flow.to.idempotency
        if given is not None and given.window is not None and given.window < kept:
            told = (
                f"{flow.to.name}: its target forgets a key after {given.window}, and dead letters are kept for {kept}"
            )
            found.append(Fault(flow.where, f"{told}. What is replayed later may have its effect a second time."))
    return found
