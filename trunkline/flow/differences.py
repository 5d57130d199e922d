"""How what two versions of a bus do with the same inputs differs: requests, what becomes of events, their identity.

Pure: journeys come in as plain data (`flow.journeys`), by the name of their input. Requests are matched by the events
they are for; what is left is matched by content, and its identity has changed: a target would act on it twice.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Literal

from trunkline.flow.journeys import Data


class Absent:
    """Stands for what is not there."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()
Part = Literal["target", "method", "path", "header", "body", "bytes", "answer", "event", "key", "call"]
WENT = ("delivered", "superseded", "routed")
"""What begins what is told of an event that went on its way."""


@dataclass(frozen=True)
class Change:
    """One place that differs: of a body or record a JSON pointer (RFC 6901), of a header its name."""

    part: Part
    at: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Pair:
    """Something that one version sends or writes and another one too: None where it does not."""

    input: str
    name: str
    """The sink or topic."""
    old: Data | None
    new: Data | None
    changes: Sequence[Change] = ()
    again: str = ""
    """Why a target would not know the new one for a repeat of the old one; "" when it would."""


@dataclass(frozen=True)
class Fate:
    """Another thing becomes of an event, or of a whole input: `where` is a flow, a sink, or a source."""

    input: str
    where: str
    event: str
    old: str
    new: str


@dataclass(frozen=True)
class Difference:
    """All that differs, and how much does not."""

    requests: list[Pair] = field(default_factory=list)
    records: list[Pair] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    """What was added to the topology or taken out of it."""
    notes: list[str] = field(default_factory=list)
    """What could not be compared."""
    inputs: int = 0
    same: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Requests that are alike, by sink."""

    def __bool__(self) -> bool:
        """Say whether anything differs."""
        return any((self.requests, self.records, self.fates, self.declared))

    @property
    def dangers(self) -> list[Pair]:
        """What a target would take for something new, though it has it already."""
        return [pair for pair in (*self.requests, *self.records) if pair.again]


def compare(old: Data, new: Data, again: Data) -> Difference:
    """Compare what two versions made of the same inputs; `again` is what the new one makes of them a second time.

    Each is {"bus": …, "journeys": {input: journey}, "notes": […]}, as `flow.inputs.walked` gives it.
    """
    found = Difference(inputs=len(new["journeys"]))
    found.declared.extend(declared(old["bus"], new["bus"]))
    reached: set[str] = set()
    for name, after in new["journeys"].items():
        before = old["journeys"][name]
        written = list(records(name, before, after))
        found.fates.extend(fates(name, before, after, written))
        for pair in requests(name, before, after):
            reached.add(pair.name)
            if pair.changes or pair.again or pair.old is None or pair.new is None:
                found.requests.append(pair)
            else:
                found.same[pair.name] += 1
        found.records.extend(written)
    found.notes.extend(notes(old, new, reached))
    for name in unsteady(new, again):
        found.notes.append(f"{name} says another thing each time: it is not pure, and a retry would not repeat it")
    return found


def declared(old: Data, new: Data) -> Iterator[str]:
    """Tell which flows are gone, new, or go by another name; a flow is what its identity says (I1)."""
    before = {flow["identity"]: flow for flow in old["flows"]}
    after = {flow["identity"]: flow for flow in new["flows"]}
    if old["identity"] != new["identity"]:
        told = "every group, event id and idempotency key is another one"
        yield f"the bus {old['identity']} is {new['identity']} now: {told}. Say was={old['identity']!r}"
    for known, flow in before.items():
        if known not in after:
            yield f"{flow['title']} is gone"
    for known, flow in after.items():
        if known not in before:
            begin = "" if flow["kind"] == "publish" else "; on a topic that has records it waits to be told --start"
            yield f"{flow['title']} is new{begin}"
            continue
        was = before[known]
        if was["title"] != flow["title"]:
            yield f"{was['title']} is now {flow['title']}, known by the same identity"
        for name in dict.fromkeys((*was["declared"], *flow["declared"])):
            old_words, words = was["declared"].get(name, "none"), flow["declared"].get(name, "none")
            if old_words != words:
                yield f"{flow['title']}: {name} was {old_words}; is {words}"


def notes(old: Data, new: Data, reached: set[str]) -> Iterator[str]:
    """Tell what the inputs say nothing of."""
    walked = {name.partition("/")[0] for name in new["journeys"]}
    for source in new["bus"]["sources"] if any("/" in name for name in new["journeys"]) else ():
        if source not in walked:
            yield f"no example of {source} was walked: there is none, or another one was asked for"
    hidden = sorted(
        {
            (hop["flow"], hop["why"])
            for side in (old, new)
            for journey in side["journeys"].values()
            for hop in journey.get("hops", ())
            if hop["hop"] == "unknown"
        }
    )
    for told in dict.fromkeys((*(f"before: {note}" for note in old["notes"]), *new["notes"])):
        if told.removeprefix("before: ") not in new["notes"] or not told.startswith("before: "):
            yield told
    for name, journey in new["journeys"].items():
        if whole(journey) == whole(old["journeys"][name]) != "walked":
            yield f"{name} is walked by neither version: {whole(journey)}"
    for _, why in hidden:
        yield f"{why}: what comes of it cannot be compared"
    unknown = {flow for flow, _ in hidden}
    for flow in new["bus"]["flows"]:
        if flow["kind"] == "deliver" and flow["sink"] not in reached and flow["name"] not in unknown:
            yield f"no input reaches {flow['sink']}: nothing is known of its requests"


def unsteady(once: Data, twice: Data) -> list[str]:
    """Name the sinks and topics that differ between two walks of one version."""
    names = [
        pair.name
        for name, journey in once["journeys"].items()
        for pair in (
            *requests(name, journey, twice["journeys"][name]),
            *records(name, journey, twice["journeys"][name]),
        )
        if pair.changes or pair.again or pair.old is None or pair.new is None
    ]
    return sorted(set(names))


# Requests.


def requests(name: str, old: Data, new: Data) -> Iterator[Pair]:
    """Match the requests of one input, and give each with its changes."""
    before, after = by_sink(old), by_sink(new)
    left: list[tuple[str, Data | None, Data | None]] = []
    for known in dict.fromkeys((*before, *after)):
        for was, now in match(before.get(known, []), after.get(known, []), CALL_MATCHES):
            sink = (now or was or {})["sink"]
            if was is None or now is None:
                left.append((sink, was, now))
            else:
                yield Pair(name, sink, was, now, list(call_changes(was, now)), again(was, now))
    gone = [was for _, was, _ in left if was is not None]
    come = [now for _, _, now in left if now is not None]
    for was, now in match(gone, come, [lambda call: (call["request"]["target"], content(call))]):
        sink = (now or was or {})["sink"]
        if was is None or now is None:
            yield Pair(name, sink, was, now)
        else:
            told = f"the sink {was['sink']} sends it already. Say was={was['sink']!r} if this is the same one"
            yield Pair(name, sink, was, now, list(call_changes(was, now)), told)


def by_sink(journey: Data) -> dict[str, list[Data]]:
    """Give the calls of a journey that have a request by what the ledger knows their sink by."""
    found: dict[str, list[Data]] = defaultdict(list)
    for hop in journey.get("hops", ()):
        if hop["hop"] == "call" and hop["request"] is not None:
            found[hop["sink_identity"]].append(hop)
    return found


def events_of(call: Data) -> Hashable:
    """Say which events a call is for."""
    return call["call"], tuple((event["source"], event["id"]) for event in call["events"])


def keys_of(call: Data) -> Hashable:
    """Say which keys a call is for."""
    return call["call"], tuple(event["key"] for event in call["events"])


def content(call: Data) -> Hashable:
    """Give what a call says, whatever the ids in it."""
    request = call["request"]
    said = json.dumps([call["call"], request["method"], request["path"], request["body"]], sort_keys=True)
    for at, event in enumerate(call["events"]):
        said = said.replace(event["id"], f"{{id {at}}}")
    return said.replace(call["idempotency_key"] or "\0", "{key}")


CALL_MATCHES: Sequence[Callable[[Data], Hashable]] = (events_of, content, keys_of, lambda call: call["call"])
"""By what calls of a sink are matched, the surest first."""


def match(
    old: Sequence[Data], new: Sequence[Data], by: Iterable[Callable[[Data], Hashable]]
) -> list[tuple[Data | None, Data | None]]:
    """Pair what is alike in the first of some respects, in order; what has no partner stands alone."""
    pairs: list[tuple[Data | None, Data | None]] = []
    before, after = list(old), list(new)
    for respect in by:
        waiting: dict[Hashable, list[Data]] = defaultdict(list)
        for one in before:
            waiting[respect(one)].append(one)
        rest = []
        for one in after:
            if partners := waiting[respect(one)]:
                partner = partners.pop(0)
                before = [other for other in before if other is not partner]
                pairs.append((partner, one))
            else:
                rest.append(one)
        after = rest
    return [*pairs, *((one, None) for one in before), *((None, one) for one in after)]


def again(old: Data, new: Data) -> str:
    """Say why a target, or the ledger, would not know a request for a repeat; "" when they would."""
    if [identity(event) for event in old["events"]] != [identity(event) for event in new["events"]]:
        return "; ".join(dict.fromkeys(moves(old["events"], new["events"])))
    if old["idempotency_key"] != new["idempotency_key"]:
        if not new["idempotency_key"]:
            return "it carries no idempotency key any more"
        return f"its idempotency key is {new['idempotency_key']}, was {old['idempotency_key'] or 'none'}"
    return ""


def moves(old: Sequence[Data], new: Sequence[Data]) -> Iterator[str]:
    """Say how the identity of events changed."""
    for was, now in zip(old, new, strict=False):
        if was["id"] != now["id"]:
            yield f"its event is {now['id']}, was {was['id']}"
        elif was["source"] != now["source"]:
            yield f"its event {now['id']} is of {now['source']}, was of {was['source']}"
    if len(old) != len(new):
        yield f"it is for {len(new)} events, was for {len(old)}"


def identity(event: Data) -> tuple[str, str]:
    """Give what an event is known by."""
    return event["source"], event["id"]


def call_changes(old: Data, new: Data) -> Iterator[Change]:
    """Find every place in which two calls differ."""
    was, now = old["request"], new["request"]
    if (before := where_to(was)) != (after := where_to(now)):
        yield Change("target", "", before, after)
    for part in ("method", "path"):
        if was[part] != now[part]:
            yield Change(part, "", was[part], now[part])
    for name in dict.fromkeys((*was["headers"], *now["headers"])):
        before, after = was["headers"].get(name, ABSENT), now["headers"].get(name, ABSENT)
        if before != after:
            yield Change("header", name, before, after)
    body = list(tree_changes("body", "", was["body"], now["body"]))
    yield from (Change(one.part, one.at.removeprefix("/json"), one.old, one.new) for one in body)
    if not body and was["digest"] != now["digest"]:
        yield Change("bytes", "", was["digest"], now["digest"])
    for status in dict.fromkeys((*old["means"], *new["means"])):
        before, after = old["means"].get(status, ABSENT), new["means"].get(status, ABSENT)
        if before != after:
            yield Change("answer", status, before, after)


def where_to(request: Data) -> str:
    """Say where a request goes to."""
    return f"{request['target']} at {request['address']}{request['credentials_in_query']}"


def tree_changes(part: Part, at: str, old: Any, new: Any) -> Iterator[Change]:
    """Find the places in which two trees differ, field by field; of a list whose length differs too."""
    match old, new:
        case dict(), dict():
            for name in dict.fromkeys((*old, *new)):
                pointer = f"{at}/{str(name).replace('~', '~0').replace('/', '~1')}"
                yield from tree_changes(part, pointer, old.get(name, ABSENT), new.get(name, ABSENT))
        case list(), list():
            yield from list_changes(part, at, old, new)
        case _ if repr(old) != repr(new):  # 1 is not 1.0, and what is no number is the same as itself
            yield Change(part, at, old, new)


def list_changes(part: Part, at: str, old: list[Any], new: list[Any]) -> Iterator[Change]:
    """Find what came into a list, what went, and what differs in between."""
    before, after = ([json.dumps(item, sort_keys=True) for item in items] for items in (old, new))
    for kind, i, i_end, j, j_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        alike = min(i_end - i, j_end - j)
        for step in range(alike):
            yield from tree_changes(part, f"{at}/{j + step}", old[i + step], new[j + step])
        for index in range(i + alike, i_end):
            yield Change(part, f"{at}/{index}", old[index], ABSENT)
        for index in range(j + alike, j_end):
            yield Change(part, f"{at}/{index}", ABSENT, new[index])


# What becomes of events.


def fates(name: str, old: Data, new: Data, written: Iterable[Pair]) -> Iterator[Fate]:
    """Find the events of which another thing becomes; of a new or vanished one only what is no success.

    `written` says which events are the same ones under another identity.
    """
    if (was := whole(old)) != (now := whole(new)):
        yield Fate(name, "", "", was, now)
        return
    now_known = {identity(one.old): identity(one.new) for one in written if one.old and one.new}
    before = {
        (where, *now_known.get((source, event), (source, event))): said
        for (where, source, event), said in outcomes(old).items()
    }
    after = outcomes(new)
    for place in dict.fromkeys((*before, *after)):
        said, says = before.get(place), after.get(place)
        if said == says or all(one is None or one.startswith(WENT) for one in (said, says)):
            continue
        where, _, event = place
        yield Fate(name, where, event, said or "not there", says or "not there")


def whole(journey: Data) -> str:
    """Say what became of an input that did not get as far as an event."""
    return next((f"{word}: {journey[word]}" for word in ("absent", "rejected", "failed") if word in journey), "walked")


def outcomes(journey: Data) -> dict[tuple[str, str, str], str]:
    """Say of each event what a flow or sink made of it: by its name, the event's source and its id."""
    found: dict[tuple[str, str, str], str] = {}
    for hop in journey.get("hops", ()):
        match hop["hop"]:
            case "step" | "route":
                place = (hop["flow"], *identity(hop["event"]))
                if "failed" in hop:
                    found[place] = f"dead: {hop['failed']['why']}"
                elif "dropped" in hop:
                    found[place] = f"filtered: {hop['dropped']}"
                elif hop["hop"] == "route" and hop["records"]:
                    before = found.get(place, "")
                    more = f" and {hop['topic']}" if before.startswith("routed") else f"routed to {hop['topic']}"
                    found[place] = f"{before}{more}" if before.startswith("routed") else more
                elif hop["hop"] == "route":
                    found.setdefault(place, "unrouted")
            case "call":
                for event, verdict in zip(hop["events"], hop["verdicts"], strict=False):
                    where = f"{hop['sink']}/{hop['call']}" if hop["call"] else hop["sink"]
                    why = f": {verdict['why']}" if "why" in verdict else ""
                    found[where, *identity(event)] = f"{FATES.get(verdict['verdict'], verdict['verdict'])}{why}"
    return found


FATES = {"permanent": "dead", "poison": "dead", "halt": "halted", "retryable": "retried"}


# Records.


RECORD_MATCHES: Sequence[Callable[[Data], Hashable]] = (
    identity,
    lambda event: json.dumps(event["data"], sort_keys=True),
    lambda event: event["key"],
)


def records(name: str, old: Data, new: Data) -> Iterator[Pair]:
    """Find the records that are written to a topic and differ, are new or are not written any more."""
    before, after = old.get("events", {}), new.get("events", {})
    for topic in dict.fromkeys((*before, *after)):
        for was, now in match(before.get(topic, []), after.get(topic, []), RECORD_MATCHES):
            if was is None or now is None:
                yield Pair(name, topic, was, now)
                continue
            changes = [
                Change("event", part, was[part], now[part])
                for part in ("key", "type", "time")
                if was[part] != now[part]
            ]
            changes += tree_changes("event", "", was["data"], now["data"])
            told = "; ".join(moves([was], [now]))
            if changes or told:
                yield Pair(name, topic, was, now, changes, told)


def by_shape(pairs: Iterable[Pair]) -> Mapping[Hashable, list[Pair]]:
    """Put together what differs in the same places of the same sink or topic."""
    found: dict[Hashable, list[Pair]] = {}
    for pair in pairs:
        places = tuple(
            (change.part, anywhere(change.at), change.old is ABSENT, change.new is ABSENT) for change in pair.changes
        )
        shape = (pair.name, pair.old is None, pair.new is None, bool(pair.again), tuple(dict.fromkeys(places)))
        found.setdefault(shape, []).append(pair)
    return found


def anywhere(pointer: str) -> str:
    """Give a JSON pointer with every place in a list alike."""
    return "/".join("*" if part.isdigit() else part for part in pointer.split("/"))
