"""How journeys and their differences are told to a person: line by line, in colour on a terminal, plain elsewhere."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.text import Text

from trunkline.cli.project import safe
from trunkline.cli.revision import Revision
from trunkline.cli.show import line, many
from trunkline.flow.differences import ABSENT, Change, Difference, Fate, Pair, anywhere, by_shape, tree_changes
from trunkline.flow.journeys import Data
from trunkline.redact import SENSITIVE, Finder, redact

ADDED, REMOVED, CHANGED, DANGER, QUIET = "green", "red", "yellow", "bold red", "dim"
MEANINGS = {"delivered": "green", "superseded": "green", "retried": "yellow", "dead": "red", "halted": "red"}
FEW = 5
"""Values that are shown of a list's items."""
SHOWN = 3
"""Requests that are shown in full of those that differ in the same places."""


class Hiding:
    """Hides secrets, and what schemas mark as sensitive, in whatever is told of an input."""

    def __init__(self, *sides: Data) -> None:
        self._marked: dict[str, set[str]] = {}
        for side in sides:
            for name, journey in side["journeys"].items():
                self._marked.setdefault(name, set()).update(journey.get("sensitive", ()))
        self._finders: dict[str, Finder] = {}

    def __call__(self, name: str, value: Any) -> Any:
        """Give a value of an input as it may be shown."""
        match value:
            case str():
                return self._text(name, value)
            case dict():
                return {key: self(name, inner) for key, inner in value.items() if key != "sensitive"}
            case list():
                return [self(name, inner) for inner in value]
            case int() | float() if not isinstance(value, bool) and str(value) in self._marked.get(name, ()):
                return SENSITIVE
            case _:
                return value

    def _text(self, name: str, text: str) -> str:
        text = redact(text)
        if not (marked := [one for one in self._marked.get(name, ()) if one.strip()]):
            return text
        if name not in self._finders:
            self._finders[name] = Finder(marked, re.IGNORECASE)
        return self._finders[name].replace(text, SENSITIVE)


def hidden(walked: Data) -> Data:
    """Give what was walked as it may be shown."""
    hide = Hiding(walked)
    return {
        "journeys": {name: hide(name, journey) for name, journey in walked["journeys"].items()},
        "notes": walked["notes"],
    }


# One journey.


def walks(walked: Data) -> Iterator[Text]:
    """Tell of every input that was walked."""
    told = hidden(walked)
    for note in told["notes"]:
        yield Text(f"note: {safe(note)}", "yellow")
    for name, journey in told["journeys"].items():
        yield Text(safe(name), "bold")
        for word in ("rejected", "failed", "absent"):
            if word in journey:
                yield Text.assemble(f"  {word}  ", (safe(journey[word]), REMOVED))
        yield from hops(journey)


def hops(journey: Data) -> Iterator[Text]:
    """Tell of a journey hop by hop."""
    flow = ""
    for hop in journey.get("hops", ()):
        if hop["flow"] != flow:
            flow = hop["flow"]
            yield Text(f"\n  {safe(flow)}", "bold cyan")
        match hop["hop"]:
            case "parsed":
                yield Text.assemble("    parsed  → ", (hop["topic"], "cyan"), f"  {named(hop['event'])}")
                yield Text(f"      {safe(line(hop['event']['data']))}", QUIET)
            case "step":
                yield from step(hop)
            case "route":
                yield from route(hop)
            case "call":
                yield from call(hop)
            case "unknown":
                yield Text(f"    {safe(hop['why'])}: what comes of {named(hop['event'])} is not known", CHANGED)


def named(event: Mapping[str, Any]) -> str:
    """Name an event."""
    return safe(f"event {event['id']}" + ("" if event["key"] is None else f", key {event['key']}"))


def step(hop: Data) -> Iterator[Text]:
    """Tell what a step did."""
    if "failed" in hop:
        yield Text.assemble(f"    {hop['step']}  ", (f"dead: {failed(hop['failed'])}", REMOVED))
    elif "dropped" in hop:
        yield Text.assemble(f"    {hop['step']}  ", (f"filtered: {safe(hop['dropped'])}", CHANGED))
    else:
        changes = list(tree_changes("event", "", hop["before"], hop["after"]))
        yield Text(f"    {hop['step']}" + ("" if changes else "  changes nothing"))
        yield from (Text.assemble("      ", *parts) for parts in together(changes))
    for table, keys in hop["asked"].items():
        absent = [key for key, found in keys.items() if not found]
        told = f"      looked up {len(keys)} in {table}" + (f", no row for {', '.join(absent[:5])}" if absent else "")
        yield Text(safe(told) + (" …" if len(absent) > 5 else ""), CHANGED if absent else QUIET)


def failed(verdict: Mapping[str, str]) -> str:
    """Say what went wrong, and at which line."""
    at = f"  ({verdict['at']})" if "at" in verdict else ""
    return safe(f"{verdict['why']}{at}")


def together(changes: Sequence[Change]) -> Iterator[list[str | tuple[str, str]]]:
    """Write changes, those at the same place of a list's items on one line."""
    places: dict[tuple[str, bool, bool], list[Change]] = {}
    for change in changes:
        places.setdefault((anywhere(change.at), change.old is ABSENT, change.new is ABSENT), []).append(change)
    for (at, _, _), alike in places.items():
        if len(alike) == 1:
            yield list(change_parts(alike[0]))
        else:
            values = [change_parts(replace(change, at=""), mark=False) for change in alike[1:FEW]]
            more = [part for parts in values for part in (", ", *parts)]
            end = f" … {len(alike)} in all" if len(alike) > FEW else ""
            yield [*change_parts(replace(alike[0], at=at)), *more, (end, QUIET)]


def saw(fields: Mapping[str, Any]) -> str:
    """Write the values that a route read, those at the same place of a list's items together."""
    places: dict[str, list[str]] = {}
    for at, value in fields.items():
        places.setdefault(anywhere(at).removeprefix("/"), []).append(line(value))
    told = [f"{at} {', '.join(values[:FEW])}{' …' if len(values) > FEW else ''}" for at, values in places.items()]
    return "; ".join(told[:8]) + (" …" if len(told) > 8 else "")


def route(hop: Data) -> Iterator[Text]:
    """Tell what a route took, and why."""
    if "failed" in hop:
        yield Text.assemble(f"    {hop['route']}  ", (f"dead: {failed(hop['failed'])}", REMOVED))
        return
    count = len(hop["records"])
    told = many(count, "record") if count else "takes nothing"
    yield Text.assemble(f"    {hop['route']} → ", (hop["topic"], "cyan"), f"  {told}")
    if hop["why"]:
        yield Text(f"      {safe(hop['why'])}")
    if hop["saw"]:
        yield Text(f"      it saw {safe(saw(hop['saw']))}", QUIET)
    for record in hop["records"]:
        yield Text(f"      {named(record)}  {safe(line(record['data']))}", QUIET)


def call(hop: Data) -> Iterator[Text]:
    """Tell what a sink sends, and what answers would mean."""
    events = ", ".join(named(event) for event in hop["events"])
    request = hop["request"]
    if request is not None:
        yield Text.assemble(
            "    ", (first_line(request), "bold"), (f"  {hop['call']}" if hop["call"] else "", "magenta")
        )
        yield from (Text(f"      {safe(name)}: {safe(value)}", QUIET) for name, value in request["headers"].items())
        yield from (Text(f"      {safe(shown)}") for shown in body(request))
        yield Text.assemble("      ", *meaning_parts(hop["means"]))
    for event, verdict in zip(hop["events"], hop["verdicts"], strict=False):
        if "why" in verdict:
            yield Text(f"    {named(event)}  {verdict['verdict']}: {failed(verdict)}", REMOVED)
    if request is None:
        yield Text(f"    nothing is sent for {events}", REMOVED)


def first_line(request: Data) -> str:
    """Write a request's first line."""
    return safe(f"{request['method']} {request['address']}{request['path']}{request['credentials_in_query']}")


def body(request: Data) -> Iterator[str]:
    """Write a body: JSON on one line when it is short."""
    if request["body"] is None:
        return
    [(kind, value)] = request["body"].items()
    text = value if kind in ("text", "base64") else line(value)
    if len(text) > 100 and kind not in ("text", "base64"):
        text = json.dumps(value, indent=2, ensure_ascii=False)
    yield from text.splitlines()


def meaning_parts(means: Mapping[str, str]) -> Iterator[str | tuple[str, str]]:
    """Say what answers would mean, together where they mean the same."""
    words: dict[str, list[str]] = {}
    for status, word in means.items():
        words.setdefault(word, []).append(status)
    for at, (word, statuses) in enumerate(words.items()):
        yield (" · " if at else "", QUIET)
        yield (f"{' '.join(statuses)} ", QUIET)
        yield (word, MEANINGS.get(word, ""))


# Differences.


def differences(found: Difference, hide: Hiding, revision: Revision, *, every: bool) -> Iterator[Text]:
    """Tell what differs, the dangerous first, and what could not be compared."""
    yield Text.assemble(("what changes since ", ""), (safe(revision.title), "bold"))
    if found.dangers:
        yield from dangers(found, hide)
    if found.declared:
        yield Text("\ntopology", "bold")
        yield from (Text(f"  ~ {safe(told)}", CHANGED) for told in found.declared)
    if found.fates:
        yield Text("\nwhat becomes of events", "bold")
        yield from fate_lines(found.fates, hide, every=every)
    yield from sections("requests of", found.requests, hide, found.same, every=every)
    yield from sections("records on", found.records, hide, {}, every=every)
    if found.notes:
        yield Text("\nnot compared", "bold")
        yield from (Text(f"  ! {safe(note)}", CHANGED) for note in found.notes)
    yield Text("")
    yield Text(summary(found), "bold" if found else "bold green")


def dangers(found: Difference, hide: Hiding) -> Iterator[Text]:
    """Tell loudly what would have its effect twice."""
    requests = [pair for pair in found.requests if pair.again]
    if not requests:
        return
    count = many(len(requests), "request")
    yield Text(f"\nDANGER: a target would not know {count} for what it has already", DANGER)
    yield Text(
        "  An event that is delivered again, by a replay or a sender that repeats itself, would have its effect twice."
    )
    for (name, reason), pairs in grouped(requests).items():
        yield Text.assemble(("  ! ", DANGER), (safe(name), "magenta"), f"  {len(pairs)}x  ", safe(reason))
        first = pairs[0]
        such = "" if first.again == reason else f"such as {safe(hide(first.input, first.again))}  "
        yield Text(f"      {such}({safe(first.input)})", QUIET)


def grouped(pairs: Iterable[Pair]) -> Mapping[tuple[str, str], list[Pair]]:
    """Put dangers together by sink and by kind."""
    found: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        kind = next((word for words, word in KINDS.items() if words in pair.again), pair.again)
        found.setdefault((pair.name, kind), []).append(pair)
    return found


KINDS = {
    "its event is": "the id of the event is another one, and so is the key",
    "is of": "the source of the event is another one, and so is the key",
    "any more": "no idempotency key is sent any more",
    "its idempotency key is": "the idempotency key is another one",
    "it is for": "the events are put together otherwise",
}
"""What kinds of dangers there are, by what is said of one."""


def fate_lines(fates: Sequence[Fate], hide: Hiding, *, every: bool) -> Iterator[Text]:
    """Tell of which events another thing becomes, together where it is the same."""
    found: dict[tuple[str, str, str], list[Fate]] = {}
    for fate in fates:
        old, new = hide(fate.input, fate.old), hide(fate.input, fate.new)
        found.setdefault((fate.where, old, new), []).append(fate)
    for (where, old, new), alike in found.items():
        bad = any(
            new.startswith(word) for word in ("dead", "unrouted", "filtered", "rejected", "failed", "absent", "halted")
        )
        style = REMOVED if bad else ADDED
        place = f"{where}  " if where else ""
        yield Text.assemble(
            f"  {'!' if bad else '+'} {safe(place)}{len(alike)}x  ", (safe(old), QUIET), " → ", (safe(new), style)
        )
        for fate in alike if every else alike[:SHOWN]:
            told = f"event {hide(fate.input, fate.event)}  " if fate.event else ""
            yield Text(f"      {safe(told)}({safe(fate.input)})", QUIET)
        if len(alike) > SHOWN and not every:
            yield Text(f"      and {len(alike) - SHOWN} more", QUIET)


def sections(what: str, pairs: Sequence[Pair], hide: Hiding, same: Mapping[str, int], *, every: bool) -> Iterator[Text]:
    """Tell what differs of each sink or topic."""
    for name in dict.fromkeys((*(pair.name for pair in pairs), *same)):
        mine = [pair for pair in pairs if pair.name == name]
        counts = counted(mine, same.get(name, 0))
        if not mine:
            yield Text.assemble(f"\n{what} ", (safe(name), "magenta"), (f"  {counts}", QUIET))
            continue
        yield Text.assemble((f"\n{what} ", "bold"), (safe(name), "bold magenta"), f"  {counts}")
        for alike in by_shape(mine).values():
            shown = alike if every else alike[:SHOWN] if len(alike) <= SHOWN else alike[:1]
            for pair in shown:
                yield from pair_lines(pair, hide)
            if len(shown) < len(alike):
                inputs = list(dict.fromkeys(pair.input for pair in alike[len(shown) :]))
                told = ", ".join(inputs[:SHOWN]) + (" …" if len(inputs) > SHOWN else "")
                yield Text(f"    and {len(alike) - len(shown)} more in the same places ({safe(told)})", QUIET)


def counted(pairs: Sequence[Pair], same: int) -> str:
    """Count what differs and what does not."""
    kinds = {
        "added": sum(pair.old is None for pair in pairs),
        "removed": sum(pair.new is None for pair in pairs),
        "changed": sum(pair.old is not None and pair.new is not None for pair in pairs),
        "the same": same,
    }
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def pair_lines(pair: Pair, hide: Hiding) -> Iterator[Text]:
    """Tell what differs of one request or record."""
    here = pair.new or pair.old or {}
    mark, style = ("+", ADDED) if pair.old is None else ("-", REMOVED) if pair.new is None else ("~", CHANGED)
    where = f"  ({pair.input})"
    if "request" in here:
        request = hide(pair.input, here["request"])
        call = f"{here['call']} " if here["call"] else ""
        yield Text.assemble((f"  {mark} {call}{first_line(request)}", style), (safe(where), QUIET))
        if pair.old is None or pair.new is None:
            yield from (Text(f"      {safe(shown)}", style) for shown in body(request))
    else:
        event = hide(pair.input, here)
        yield Text.assemble((f"  {mark} {named(event)}", style), (safe(where), QUIET))
        if pair.old is None or pair.new is None:
            yield Text(f"      {safe(line(event['data']))}", style)
    if pair.again:
        yield Text(f"      ! {safe(hide(pair.input, pair.again))}", DANGER)
    for change in pair.changes:
        shown = Change(change.part, change.at, hide(pair.input, change.old), hide(pair.input, change.new))
        yield Text.assemble("      ", *change_parts(shown))


def change_parts(change: Change, *, mark: bool = True) -> Iterator[str | tuple[str, str]]:
    """Write one change on a line; without its mark and place only the values."""
    part = "" if change.part == "event" else f"{change.part} "
    place = safe(f"{part}{change.at}".strip())
    if change.old is ABSENT:
        yield (f"+ {place}  " if mark else "", ADDED)
        yield (safe(line(change.new)), ADDED)
    elif change.new is ABSENT:
        yield (f"- {place}  " if mark else "", REMOVED)
        yield (safe(line(change.old)), REMOVED)
    elif change.part == "bytes":
        yield ("~ bytes  the same value in other bytes: names in another order, or numbers written otherwise", CHANGED)
    else:
        yield (f"~ {place}  " if mark else "", CHANGED)
        yield (safe(line(change.old)), REMOVED)
        yield " → "
        yield (safe(line(change.new)), ADDED)


def summary(found: Difference) -> str:
    """Add it up in one line."""
    inputs = many(found.inputs, "input")
    if not found:
        alike = sum(found.same.values())
        return f"nothing changes: {many(alike, 'request')} of {inputs} are the same"
    parts = []
    for noun, pairs in (("request", found.requests), ("record", found.records)):
        if pairs:
            parts.append(f"{noun}s: {counted(pairs, 0)}")
    if found.fates:
        parts.append(f"{len(found.fates)} end{'s' if len(found.fates) == 1 else ''} otherwise")
    if found.declared:
        parts.append(f"topology: {len(found.declared)}")
    dangers = sum(bool(pair.again) for pair in found.requests)
    return f"{inputs}; {'; '.join(parts)}" + (f"; {dangers} may have their effect twice" if dangers else "")


def difference_data(found: Difference, hide: Hiding, revision: Revision) -> Data:
    """Give what differs for programs."""

    def given(name: str, value: Any) -> Any:
        return None if value is ABSENT else hide(name, value)

    def pair_data(pair: Pair) -> Data:
        return {
            "input": pair.input,
            "name": pair.name,
            "old": given(pair.input, pair.old),
            "new": given(pair.input, pair.new),
            "again": hide(pair.input, pair.again) or None,
            "changes": [
                {
                    "part": change.part,
                    "at": change.at,
                    "kind": "added" if change.old is ABSENT else "removed" if change.new is ABSENT else "changed",
                    "old": given(pair.input, change.old),
                    "new": given(pair.input, change.new),
                }
                for change in pair.changes
            ],
        }

    return {
        "revision": revision.commit,
        "differs": bool(found),
        "inputs": found.inputs,
        "requests": [pair_data(pair) for pair in found.requests],
        "records": [pair_data(pair) for pair in found.records],
        "fates": [{name: hide(fate.input, told) for name, told in asdict(fate).items()} for fate in found.fates],
        "topology": found.declared,
        "not_compared": found.notes,
        "same": dict(found.same),
    }
