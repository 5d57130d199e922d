"""Mistakes in one declaration, seen alone: a value of a wrong type, a name Kafka would refuse, a number out of range.

A value of a wrong type is a fault and never a traceback, so everything is read here as if it could be anything.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

from pydantic import PydanticUserError

from trunkline.errors import Fault, Faults
from trunkline.flow.credentials import (
    Alone,
    ApiKey,
    ClientCredentials,
    Credentials,
    RefreshToken,
    Rotation,
    SignedWebhook,
)
from trunkline.flow.declare import (
    LIBRARY,
    Agent,
    Breaker,
    Bus,
    Declared,
    Deliver,
    Enrich,
    Flow,
    Limit,
    Lookup,
    Process,
    Publish,
    Table,
    Target,
    Topic,
    Wait,
    flow_name,
    inputs_of,
)
from trunkline.flow.functions import name_of
from trunkline.formats.shapes import validator
from trunkline.requests import Idempotency
from trunkline.settings import Env, Secret
from trunkline.verdict import Retry

NAME = re.compile(r"[a-z0-9._-]*[a-z0-9][a-z0-9._-]*")
LONGEST_TOPIC = 249
"""Kafka's limit for a topic's name."""
LONGEST_FLOW = 200
"""A flow's name is the head of its topics' and its group's names."""
AFTER_DEAD = ("continue", "park_key", "block")
WRITES = ("each", "latest")
MISSING = ("null", "dead")
MISSING_TOLD = '"null", "dead" or wait(seconds)'
SENT_IN = ("header", "body")
ASKED = ("request", "verdict", "batch", "verdicts")
"""What a sink is asked."""
SAID = ("idempotency", "writes", "together", "was", "speaks")
"""What a sink says of its target and of itself, beside its name."""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header's name is made of (RFC 9110 §5.6.2)."""
SHORTEST_KEY = 16
"""Characters of base32 below which two keys of a large topic may well be the same: 80 bits."""


def parts_of(flow: Flow) -> Iterator[Declared]:
    """Yield a flow and everything declared that it is made of, right or wrong."""
    yield flow
    match flow:
        case Publish():
            inside: list[Any] = [flow.to]
        case Process():
            steps = flow.steps if isinstance(flow.steps, Sequence) else []
            looked = [part for step in steps if isinstance(step, Enrich) for part in step.parts]
            asked = [part.target for part in looked if isinstance(part, Lookup)]
            inside = [flow.topic, *steps, *looked, *asked, *(flow.to if isinstance(flow.to, Mapping) else [])]
        case Agent():
            inside = [flow.topic, *([] if flow.join is None else [flow.join]), flow.to]
        case Deliver():
            others = attribute(flow.to, "others")
            inside = [flow.topic, *(attribute(flow.to, name) for name in ("results", "target"))]
            inside += others.values() if isinstance(others, Mapping) else []
    yield from (part for part in inside if isinstance(part, Topic | Table | Lookup | Enrich | Target))


def is_sound(part: Declared) -> bool:
    """Say whether every value of a declaration is of its type."""
    return not any(type_faults(part))


def attribute(thing: object, name: str) -> Any:
    """Give an attribute of somebody's object, None when reading it fails in whatever way."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a property of an adapter may raise anything
        return None


def has(thing: object, name: str) -> bool:
    """Say whether somebody's object has an attribute that can be read."""
    try:
        return hasattr(thing, name)
    except Exception:  # noqa: BLE001 - a property of an adapter may raise anything
        return False


def expect(where: str, what: str, value: object, kind: Any, wanted: str) -> Faults:
    """Find that a value is of a wrong type; the value itself is never shown, it may be a secret."""
    if not isinstance(value, kind) or isinstance(value, bool):
        given = "None" if value is None else "a class" if isinstance(value, type) else f"of type {type(value).__name__}"
        yield Fault(where, f"{what} is {given}. Give {wanted}.")


def type_faults(part: Declared) -> Faults:
    """Find the values of a declaration that are of a wrong type."""
    where = part.where
    match part:
        case Topic() | Table():
            yield from stored_types(part)
        case Target():
            yield from target_types(where, part, part.url, part.auth, part.limit)
        case Enrich():
            for given in part.parts:
                what = f"what Enrich({name_of(part.step)}) looks up"
                yield from expect(where, what, given, (Table, Lookup), "a Table or a Lookup")
        case Lookup():
            yield from lookup_types(part)
        case Publish():
            yield from name_types(where, "Publish", part.name, part.was)
            yield from source_types(where, part.source)
            yield from topic_types(where, "Publish writes to", part.to)
        case Process():
            yield from name_types(where, "Process", part.name, part.was)
            yield from topic_types(where, "Process reads", part.topic)
            yield from expect(
                where, "what comes second in a Process", part.steps, (list, tuple), "its steps: [step, …]"
            )
            yield from expect(where, "Process's to", part.to, Mapping, "a route for each topic: to={topic: route}")
            yield from expect(where, "Process's weight", part.weight, (int, float), "a number")
        case Agent():
            yield from name_types(where, "Agent", part.name, part.was)
            yield from topic_types(where, "Agent reads", part.topic)
            if part.join is not None:
                yield from topic_types(where, "Agent joins", part.join)
            yield from topic_types(where, "Agent writes to", part.to)
            told = 'a duration such as minutes(10), or env("NAME")'
            yield from expect(where, "Agent's window", part.window, (timedelta, Env), told)
        case Deliver():
            yield from name_types(where, "Deliver", part.name, part.was)
            yield from topic_types(where, "Deliver reads", part.topic)
            yield from sink_types(where, part.to)
            yield from retry_types(where, part.retry)
            yield from expect(where, "Deliver's after_dead", part.after_dead, str, listed(AFTER_DEAD))
            yield from expect(where, "Deliver's weight", part.weight, (int, float), "a number")


def name_types(where: str, kind: str, name: Any, was: Any) -> Faults:
    """Find that a flow's name or former name is no text."""
    yield from expect(where, f"{kind}'s name", name, str, "a text, or leave it out")
    yield from expect(where, f"{kind}'s was", was, str, "the name it had before, or leave it out")


def topic_types(where: str, what: str, topic: Any) -> Faults:
    """Find that what a flow reads or writes is no topic."""
    if isinstance(topic, Table):
        yield Fault(where, f"{what} the Table {topic.name}, which holds rows and no events. Give it a Topic.")
    else:
        yield from expect(where, f"what {what}", topic, Topic, "a Topic")


def stored_types(part: Topic | Table) -> Faults:
    """Find the wrongly typed values of a topic or table."""
    where, kind = part.where, type(part).__name__
    yield from expect(where, f"{kind}'s name", part.name, str, 'a text such as "orders.placed"')
    yield from expect(where, f"{kind}'s record", part.record, type, "a type that `trunkline schema types` wrote")
    yield from expect(where, f"{kind}'s partitions", part.partitions, int, "a whole number")
    if isinstance(part, Table) or part.key is not None:
        yield from expect(where, f"{kind}'s key", part.key, str, "the name of a field")
    if isinstance(part, Table):
        yield from expect(where, "Table's missing", part.missing, (str, Wait), MISSING_TOLD)
        if isinstance(part.missing, Wait):
            yield from expect(where, "the seconds of wait", part.missing.seconds, (int, float), "a number")
    if isinstance(part, Topic):
        yield from expect(where, "Topic's keep", part.keep, timedelta, "a duration such as days(7)")


def lookup_types(part: Lookup) -> Faults:
    """Find the wrongly typed values of a look-up."""
    where = part.where
    yield from expect(where, "Lookup's name", part.name, str, 'a text such as "ratings"')
    yield from expect(where, "Lookup's target", part.target, Target, 'Target("name", env("NAME"))')
    yield from expect(where, "Lookup's path", part.path, str, 'a text such as "/ratings/{key}"')
    yield from expect(where, "Lookup's record", part.record, type, "a TypedDict")
    yield from expect(where, "Lookup's key", part.key, str, "the name of a field")
    for name in ("ttl", "absent", "stale"):
        yield from expect(where, f"Lookup's {name}", getattr(part, name), timedelta, "a duration such as minutes(5)")
    yield from expect(where, "Lookup's together", part.together, int, "a whole number")
    if part.split is not None:
        yield from expect(where, "Lookup's split", part.split, Callable, "a function of the answer, or leave it out")


def target_types(where: str, part: Target, url: Any, auth: Any, limit: Any) -> Faults:
    """Find the wrongly typed values of a target."""
    yield from expect(where, "Target's name", part.name, str, 'a text such as "billing"')
    if isinstance(url, str):
        yield Fault(where, 'Target\'s address is written out, but differs from place to place. Name it: env("NAME").')
    else:
        yield from expect(where, "Target's address", url, Env, 'env("NAME")')
    if isinstance(auth, Credentials):
        yield from auth_types(where, auth)
    elif auth is not None:
        yield from expect(where, "Target's auth", auth, Credentials, 'ApiKey(Secret("NAME"))')
    if isinstance(limit, Limit):
        yield from expect(where, "Limit's events", limit.events, (int, float), "a number")
        if limit.burst is not None:
            yield from expect(where, "Limit's burst", limit.burst, (int, float), "a number, or leave it out")
    elif limit is not None:
        yield from expect(where, "Target's limit", limit, Limit, 'Limit(100, per="second")')
    yield from breaker_types(where, part.breaker)
    yield from expect(where, "Target's allow", part.allow, (list, tuple), 'a list of networks: ["10.0.0.0/8"]')
    for network in part.allow if isinstance(part.allow, list | tuple) else ():
        yield from expect(where, "a network in Target's allow", network, str, 'a text such as "10.0.0.0/8"')


def breaker_types(where: str, breaker: Any) -> Faults:
    """Find the wrongly typed values of a Breaker."""
    if isinstance(breaker, Breaker):
        yield from expect(where, "Breaker's failures", breaker.failures, int, "a whole number")
        yield from expect(where, "Breaker's pause", breaker.pause, timedelta, "a duration such as minutes(1)")
        yield from expect(where, "Breaker's probes", breaker.probes, int, "a whole number")
    elif breaker is not None:
        yield from expect(where, "Target's breaker", breaker, Breaker, "Breaker() or None")


def auth_types(where: str, auth: Credentials) -> Faults:
    """Find the wrongly typed values of credentials: each is a secret, a setting or a text."""
    for one in fields(auth):
        value, what = getattr(auth, one.name), f"{type(auth).__name__}'s {one.name}"
        if isinstance(value, Alone):
            yield from auth_types(where, value)
        elif isinstance(auth, Rotation):
            yield from expect(where, what, value, Alone, 'what is used alone: Bearer(Secret("NAME")) or the like')
        elif one.type is Secret or (one.type == Secret | None and value is not None):
            yield from secret_types(where, what, value)
        elif one.type is Env:
            if isinstance(value, str):
                yield Fault(where, f'{what} is written out, but differs from place to place. Name it: env("NAME").')
            else:
                yield from expect(where, what, value, Env, 'env("NAME")')
        elif one.type != Secret | None:
            yield from expect(where, what, value, str, "the name of a header" if one.name == "header" else "a text")


def secret_types(where: str, what: str, secret: Any) -> Faults:
    """Find that a secret is none."""
    if isinstance(secret, str):
        yield Fault(where, f'{what} is written out for all to read. Put it in the environment: Secret("NAME").')
    else:
        yield from expect(where, what, secret, Secret, 'Secret("NAME")')


def source_types(where: str, source: Any) -> Faults:
    """Find that what publishes is no source."""
    kind = (source if isinstance(source, type) else type(source)).__name__
    verify = attribute(source, "verify")
    if isinstance(source, type):
        yield Fault(where, f"Publish is given the class {kind}. Give it a source: {kind}(verify=…).")
    elif not callable(attribute(source, "events")):
        yield Fault(where, f"{kind} is no source: it has no events(request). Build it on trunkline.sources.Webhook.")
    elif not isinstance(attribute(source, "name"), str):
        yield Fault(where, f'the source {kind} has no name. Add to the class: name = "{kind.lower()}".')
    elif not callable(attribute(verify, "check")) or not callable(attribute(verify, "sign")):
        yield Fault(where, f"the source {kind} has no proof of its sender. Give it one: {kind}(verify=…).")
    elif (secret := attribute(verify, "secret")) is not None:
        yield from secret_types(where, f"the secret of {kind}", secret)


def sink_types(where: str, sink: Any) -> Faults:
    """Find that what is delivered to is no sink."""
    kind = (sink if isinstance(sink, type) else type(sink)).__name__
    if isinstance(sink, type):
        yield Fault(where, f"Deliver is given the class {kind}. Give it a sink: {kind}(target).")
    elif isinstance(sink, Target):
        yield Fault(where, "Deliver is given a Target. Give it a sink, which says what to send there.")
    elif missing := [
        *(name for name in ASKED if not callable(attribute(sink, name))),
        *(name for name in SAID if not has(sink, name)),
    ]:
        yield Fault(where, f"{kind} is no sink: {missing[0]} is missing. Build it on trunkline.sinks.HttpSink.")
    elif not isinstance(attribute(sink, "name"), str):
        yield Fault(where, f'the sink {kind} has no name. Add to the class: name = "{kind.lower()}".')
    else:
        target = attribute(sink, "target")
        yield from expect(where, f"the target of {kind}", target, Target, 'Target("name", env("NAME"))')
        yield from expect(where, f"the was of {kind}", attribute(sink, "was"), str, "the name it had before")
        yield from expect(where, f"the writes of {kind}", attribute(sink, "writes"), str, listed(WRITES))
        yield from expect(where, f"the together of {kind}", attribute(sink, "together"), int, "a whole number")
        yield from expect(where, f"the speaks of {kind}", attribute(sink, "speaks"), str, 'a text such as "2024-06-01"')
        yield from idempotency_types(where, kind, attribute(sink, "idempotency"))


def idempotency_types(where: str, kind: str, given: Any) -> Faults:
    """Find the wrongly typed values of how a target takes our key."""
    if isinstance(given, Idempotency):
        wanted = "the name of a header, or None"
        yield from expect(where, f"the idempotency header of {kind}", given.header, str | None, wanted)
        yield from expect(where, f"the longest key of {kind}", given.longest, int, "a whole number")
    elif given is not None:
        yield from expect(where, f"the idempotency of {kind}", given, Idempotency, "Idempotency() or None")


def retry_types(where: str, retry: Any) -> Faults:
    """Find the wrongly typed values of a Retry."""
    yield from expect(where, "Deliver's retry", retry, Retry, "Retry(…)")
    if isinstance(retry, Retry):
        for name in ("give_up_after", "longest", "first"):
            yield from expect(
                where, f"Retry's {name}", getattr(retry, name), timedelta, "a duration such as minutes(5)"
            )


def bus_faults(bus: Bus, flows: Sequence[Any]) -> Faults:
    """Find what is wrong with the bus itself."""
    yield from expect(bus.where, "Bus's name", bus.name, str, 'a text such as "orders"')
    if isinstance(bus.name, str):
        yield from name_faults(bus.where, "Bus", bus.name, LONGEST_FLOW)
    yield from expect(bus.where, "Bus's was", bus.was, str, "the name it had before, or leave it out")
    yield from was_name_faults(bus.where, bus.was)
    yield from retired_types(bus)
    if not flows:
        yield Fault(bus.where, "the Bus has no flows. Add Publish(…), Process(…), Agent(…) or Deliver(…).")
    for flow in flows:
        where = flow.where if isinstance(flow, Declared) else bus.where
        yield from expect(where, "a flow of the Bus", flow, Flow, "Publish(…), Process(…), Agent(…) or Deliver(…)")


def retired_types(bus: Bus) -> Faults:
    """Find that what is retired is no list of names."""
    yield from expect(bus.where, "Bus's retired", bus.retired, (list, tuple), 'a list of names: ["billing"]')
    for name in bus.retired if isinstance(bus.retired, list | tuple) else ():
        yield from expect(bus.where, "a name in Bus's retired", name, str, "the name of a sink or flow")


def was_name_faults(where: str, was: object) -> Faults:
    """Find that a former name can never have been one."""
    if isinstance(was, str) and was:
        yield from name_faults(where, "was", was, LONGEST_FLOW)


def value_faults(part: Declared) -> Faults:
    """Find the values of a declaration that are of the right type and wrong."""
    match part:
        case Topic() | Table():
            yield from name_faults(part.where, type(part).__name__, part.name, LONGEST_TOPIC)
            if part.name.startswith("trunkline."):
                yield Fault(
                    part.where, f"{part.name}: trunkline.… are the bus's own topics. Begin it with another word."
                )
            if part.partitions < 1:
                yield Fault(part.where, f"{part.name} has {part.partitions} partitions. Give it at least 1.")
            if isinstance(part, Topic) and part.keep <= timedelta(0):
                yield Fault(part.where, f"{part.name} keeps nothing. Give it a duration such as days(7).")
            if isinstance(part, Table):
                yield from missing_faults(part)
        case Target():
            yield from name_faults(part.where, "Target", part.name, LONGEST_FLOW)
            if part.limit is not None:
                yield from limit_faults(part, part.limit)
            if part.breaker is not None:
                yield from breaker_faults(part, part.breaker)
            yield from allow_faults(part)
            if part.auth is not None:
                yield from auth_faults(part.where, part.name, part.auth)
        case Lookup():
            yield from lookup_faults(part)
        case Publish():
            yield from name_faults(part.where, "source", part.source.name, LONGEST_FLOW)
            yield from was_name_faults(part.where, part.was)
        case Process():
            yield from was_name_faults(part.where, part.was)
            yield from weight_faults(part)
        case Agent():
            yield from was_name_faults(part.where, part.was)
            yield from window_faults(part)
        case Deliver():
            yield from name_faults(part.where, "sink", part.to.name, LONGEST_FLOW)
            yield from was_name_faults(part.where, part.was)
            yield from was_name_faults(part.where, part.to.was)
            yield from retry_faults(part, part.retry)
            yield from after_dead_faults(part)
            yield from weight_faults(part)
            yield from contract_faults(part)
            yield from webhook_faults(part)


def window_faults(flow: Agent) -> Faults:
    """Find that an agent remembers nothing, or longer than its topics do."""
    if not isinstance(flow.window, timedelta):
        return
    if flow.window <= timedelta(0):
        yield Fault(flow.where, f"the window of {flow_name(flow)} is {flow.window}. Give a duration above 0.")
    for topic in inputs_of(flow):
        if isinstance(topic.keep, timedelta) and flow.window >= topic.keep:
            told = f"the window of {flow_name(flow)} is {flow.window}, and {topic.name} keeps its records {topic.keep}"
            yield Fault(flow.where, f"{told}: a restart would forget. Shorten the window, or lengthen keep.")


def name_faults(where: str, kind: str, name: str, longest: int) -> Faults:
    """Find that a name has other characters than a Kafka topic's may have, or too many."""
    if not NAME.fullmatch(name):
        better = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")
        told = f'Write "{better}".' if NAME.fullmatch(better) else "Give it one."
        yield Fault(where, f'{kind} "{name}": a name is made of a-z, 0-9, dots, hyphens and underscores. {told}')
    elif len(name) > longest:
        yield Fault(where, f'{kind} "{name[:20]}…" has {len(name)} characters. Shorten its name to {longest}.')


def missing_faults(part: Table) -> Faults:
    """Find that what a missing row means is nothing we know."""
    match part.missing:
        case Wait(seconds):
            if not (math.isfinite(seconds) and seconds > 0):
                yield Fault(part.where, f"{part.name} waits {seconds} seconds for a row. Give a number above 0.")
        case word if word not in MISSING:
            yield Fault(part.where, f'the missing of {part.name} is "{word}". Write {MISSING_TOLD}.')


def flow_name_faults(flow: Flow) -> Faults:
    """Find what is wrong with the part of a flow's name that nothing else is named by."""
    name, kind = flow_name(flow), type(flow).__name__
    if flow.name:
        yield from name_faults(flow.where, "flow", name, LONGEST_FLOW)
    elif isinstance(flow, Process | Agent) and not NAME.fullmatch(own := name.removeprefix(f"{flow.topic.name}.")):
        what = "its body" if isinstance(flow, Agent) else "its first step or route"
        told = f'Name it: {kind}(…, name="{flow.topic.name}.…")'
        yield Fault(
            flow.where,
            f"{'an' if kind == 'Agent' else 'a'} {kind} is named for {what}, and {own} makes no name. {told}.",
        )
    elif len(name) > LONGEST_FLOW:
        told = f'Give it one of at most {LONGEST_FLOW}: {kind}(…, name="…")'
        yield Fault(flow.where, f"the name {name[:20]}… of this {kind} has {len(name)} characters. {told}.")


def limit_faults(part: Target, limit: Limit) -> Faults:
    """Find what is wrong with a limit."""
    if not (math.isfinite(limit.events) and limit.events > 0):
        yield Fault(part.where, f"the Limit of {part.name} is {limit.events}. Give a number above 0, or leave it out.")
    if limit.per not in ("second", "minute"):
        yield Fault(part.where, f'the Limit of {part.name} is per {limit.per!r}. Write per="second" or per="minute".')
    if limit.burst is not None and not (math.isfinite(limit.burst) and limit.burst >= 1):
        yield Fault(part.where, f"the burst of {part.name}'s Limit is {limit.burst}. Give at least 1, or leave it out.")


def breaker_faults(part: Target, breaker: Breaker) -> Faults:
    """Find what is wrong with a Breaker."""
    for name in ("failures", "probes"):
        if getattr(breaker, name) < 1:
            yield Fault(
                part.where, f"the {name} of {part.name}'s Breaker is {getattr(breaker, name)}. Give at least 1."
            )
    if breaker.pause <= timedelta(0):
        yield Fault(part.where, f"the pause of {part.name}'s Breaker is {breaker.pause}. Give a duration above 0.")


def allow_faults(part: Target) -> Faults:
    """Find that what a target may be is no network."""
    for network in part.allow:
        try:
            ip_network(network)
        except ValueError as error:
            yield Fault(part.where, f'{part.name} allows "{network}", which is no network: {error}.')


def lookup_faults(part: Lookup) -> Faults:
    """Find what is wrong with a look-up."""
    yield from name_faults(part.where, "Lookup", part.name, LONGEST_FLOW)
    for name in ("ttl", "absent", "stale"):
        if getattr(part, name) < timedelta(0):
            yield Fault(part.where, f"{part.name}'s {name} is {getattr(part, name)}. Give 0 or more.")
    if part.together < 1:
        yield Fault(part.where, f"{part.name} asks for {part.together} keys together. Give at least 1.")
    elif part.together > 1 and part.split is None:
        told = "and does not say how an answer is split"
        yield Fault(part.where, f"{part.name} asks for {part.together} keys together {told}. Add split=function.")
    place = "key" if part.split is None and part.together == 1 else "keys"
    if (found := re.findall(r"\{(\w+)\}", part.path)) != [place]:
        told = ", ".join(f"{{{name}}}" for name in found) or "none"
        yield Fault(part.where, f"the path of {part.name} has the places: {told}. It needs {{{place}}}, once.")
    if not part.path.startswith("/"):
        yield Fault(part.where, f'the path of {part.name} does not begin with "/". Give what follows the address.')
    try:
        validator(part.record)
    except PydanticUserError as error:
        told = str(error).split("\n", 1)[0]
        yield Fault(part.where, f"{part.name}: answers cannot be read as {part.record.__name__}: {told}")


def weight_faults(flow: Process | Deliver) -> Faults:
    """Find that a flow's share of its target's limit is none."""
    if not (math.isfinite(flow.weight) and flow.weight > 0):
        yield Fault(flow.where, f"the weight of {flow_name(flow)} is {flow.weight}. Give a number above 0.")


def auth_faults(where: str, name: str, auth: Credentials) -> Faults:
    """Find what is wrong with the credentials of a target."""
    match auth:
        case ApiKey(header=header) if not TOKEN.fullmatch(header):
            yield Fault(where, f'{name}: "{header}" is no name of a header. Write the target\'s.')
        case ClientCredentials(sent_in=place) | RefreshToken(sent_in=place) if place not in SENT_IN:
            yield Fault(where, f'{name}: the client\'s secret is sent in "{place}". Write {listed(SENT_IN)}.')
        case Rotation(first, second):
            for one in (first, second):
                yield from auth_faults(where, name, one)
                if isinstance(one, ApiKey) and one.query:
                    told = f"{name}: a key in the query stands in the target's address, which does not change"
                    yield Fault(where, f"{told}. Rotate a key in a header, or give one ApiKey alone.")


def webhook_faults(flow: Deliver) -> Faults:
    """Find that a signed webhook would have no id."""
    sink, auth = flow.to, flow.to.target.auth
    header = None if sink.idempotency is None else sink.idempotency.header
    if isinstance(auth, SignedWebhook) and (header or "").lower() != "webhook-id":
        told = f"{type(sink).__name__} sends signed webhooks, whose id is our idempotency key"
        yield Fault(flow.where, f'{told}. Add to the class: idempotency = Idempotency(header="webhook-id").')


def after_dead_faults(flow: Deliver) -> Faults:
    """Find that what is to happen after a dead letter is nothing we know, or needs keys that the topic has not."""
    if flow.after_dead not in AFTER_DEAD:
        yield Fault(flow.where, f'after_dead is "{flow.after_dead}". Write {listed(AFTER_DEAD)}.')
    elif flow.after_dead != "continue" and flow.topic.key is None:
        told = f'after_dead="{flow.after_dead}" holds back later events of a key; {flow.topic.name} has no key'
        yield Fault(flow.where, f'{told}. Declare one: Topic(…, key="…"), or leave after_dead out.')


def contract_faults(flow: Deliver) -> Faults:
    """Find what is wrong with what a sink says of its target."""
    kind, sink = type(flow.to).__name__, flow.to
    if sink.writes not in WRITES:
        yield Fault(flow.where, f'the writes of {kind} is "{sink.writes}". Write {listed(WRITES)}.')
    elif sink.writes == "latest" and flow.topic.key is None:
        told = f'{kind} writes the "latest" of each key; {flow.topic.name} has no key'
        yield Fault(flow.where, f'{told}. Declare one: Topic(…, key="…"), or deliver "each".')
    if sink.together < 1:
        yield Fault(flow.where, f"{kind} takes {sink.together} events together. Give at least 1.")
    elif sink.together > 1 and is_kits(sink.batch):
        yield Fault(flow.where, f"{kind} takes {sink.together} events together and has no batch(items). Write it.")
    elif is_kits(sink.request) and is_kits(sink.batch) and not any(has(sink, way) for way in ("deliver", "calls")):
        yield Fault(flow.where, f"{kind} does not say what to send. Write request(event).")
    if sink.idempotency is None:
        return
    header = sink.idempotency.header
    if header is None and is_kits(sink.batch):
        told = f"{kind} sends its key in the body, and only batch(items) is given keys"
        yield Fault(flow.where, f"{told}. Write it, or name the header.")
    if header is not None and not TOKEN.fullmatch(header):
        yield Fault(flow.where, f'{kind}: "{header}" is no name of a header. Write the target\'s.')
    if sink.idempotency.longest < SHORTEST_KEY:
        told = f"a key of at most {sink.idempotency.longest} characters could be another event's too"
        yield Fault(flow.where, f"{kind}: {told}. Give at least {SHORTEST_KEY}, or idempotency = None.")


def is_kits(method: Any) -> bool:
    """Say whether a method of a sink is the library's own, which the sink has left as it is."""
    code = getattr(getattr(method, "__func__", method), "__code__", None)
    return code is not None and code.co_filename.startswith(LIBRARY)


def listed(words: Iterable[str]) -> str:
    """Name what may be written."""
    *most, last = (f'"{word}"' for word in words)
    return f"{', '.join(most)} or {last}"


def retry_faults(flow: Deliver, retry: Retry) -> Faults:
    """Find what is wrong with a Retry."""
    for name in ("give_up_after", "longest", "first"):
        if getattr(retry, name) <= timedelta(0):
            yield Fault(flow.where, f"Retry's {name} is {getattr(retry, name)}. Give a duration above 0.")
    if retry.longest > retry.give_up_after:
        told = f"longest is {retry.longest} and give_up_after {retry.give_up_after}"
        yield Fault(flow.where, f"Retry would give up before its longest wait: {told}. Shorten longest.")
