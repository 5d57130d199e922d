"""What a newer OpenAPI document takes away where sinks call. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.flow.journeys import Data
from trunkline.flow.media import kinds_of, merged, takes
from trunkline.flow.openapi import (
    JSON,
    Document,
    Operation,
    escaped,
    kind_of_body,
    names_in,
    understood,
    value_of,
    words,
)


@dataclass(frozen=True)
class Break:
    """What a newer document takes away from an operation that is called: `sent` says whether an example has it."""

    operation: str
    at: str
    told: str
    sent: bool


def breaks(old: Document, new: Document, calls: Sequence[tuple[str, Data]]) -> list[Break]:
    """Find what a newer document takes away where these requests go, whether or not one of them has it.

    Raises:
        UsageError: a reference leads nowhere, or what one of them says there cannot be understood.
    """
    with understood(f"{old.name} or {new.name}", "what the sink calls"):
        return list(taken(old, new, calls))


def taken(old: Document, new: Document, calls: Sequence[tuple[str, Data]]) -> dict[Break, None]:
    """Find what a newer document takes away, each once."""
    found: dict[Break, None] = {}
    by_operation: dict[tuple[str, str], list[tuple[Operation, Operation, Data]]] = {}
    for _, call in calls:
        request = call["request"]
        path = request["path"].partition("?")[0]
        before, after = (document.operation(request["method"], path) for document in (old, new))
        if isinstance(before, Operation) and isinstance(after, Operation):
            by_operation.setdefault((before.method, before.template), []).append((before, after, request))
    for (method, template), alike in by_operation.items():
        before, after, _ = alike[0]
        name = f"{method.upper()} {template}"
        if after.told.get("deprecated") and not before.told.get("deprecated"):
            found[Break(name, "operation", "is deprecated", sent=True)] = None
        kind = next((kind_of_body(request) for _, _, request in alike if request["body"] is not None), JSON)
        if (was := schema_of(before, kind)) is None or (now := schema_of(after, kind)) is None:
            continue
        bodies = [value_of(old, was, request["body"]) for _, _, request in alike if request["body"] is not None]
        for at, told in narrowed(old, was, new, now, "", set()):
            found[Break(name, f"body {at}".strip(), told, sent=any(has(body, at) for body in bodies))] = None
    return found


def schema_of(operation: Operation, kind: str) -> Data | None:
    """Give the schema of an operation's body of a content type."""
    document = operation.document
    _, wanted = document.followed("", operation.told.get("requestBody", {}))
    for media, content in wanted.get("content", {}).items():
        if takes(media, kind) and "schema" in content:
            found: Data = document.followed("", content["schema"])[1]
            return found
    return None


def narrowed(
    old: Document, was: Data, new: Document, now: Data, at: str, seen: set[tuple[int, int]]
) -> Iterator[tuple[str, str]]:
    """Compare two schemas of one value, each pair once: what the old one lets be sent and the new one does not.

    Conditions such as `if` and alternatives such as `oneOf` are not compared.
    """
    (_, was), (_, now) = old.followed("", was), new.followed("", now)
    if not isinstance(was, dict) or not isinstance(now, dict) or (id(was), id(now)) in seen:
        return
    seen.add((id(was), id(now)))
    was, now = merged(old, was), merged(new, now)
    before, after = kinds_of(was), kinds_of(now)
    if before and after and not before <= after | ({"integer"} if "number" in after else set()):
        yield at, f"is {words(sorted(after))} now, was {words(sorted(before))}"
    if "enum" in now:
        gone = [value for value in was.get("enum", ()) if value not in now["enum"]]
        if gone or "enum" not in was:
            yield at, f"may no more be {words(gone)}" if gone else f"has to be one of {words(now['enum'])} now"
    for limit, tighter in (
        ("maxLength", -1),
        ("maximum", -1),
        ("maxItems", -1),
        ("minLength", 1),
        ("minimum", 1),
        ("minItems", 1),
    ):
        if limit in now and (limit not in was or (now[limit] - was[limit]) * tighter > 0):
            yield at, f"has {limit} {now[limit]} now" + (f", was {was[limit]}" if limit in was else "")
    if "pattern" in now and now["pattern"] != was.get("pattern"):
        yield at, f"has to be like {now['pattern']} now"
    known, left = was.get("properties", {}), now.get("properties", {})
    for name in now.get("required", ()):
        if name not in was.get("required", ()):
            yield f"{at}/{escaped(name)}", "is required now"
    for name, inner in known.items():
        inside = f"{at}/{escaped(name)}"
        if name in left:
            yield from narrowed(old, inner, new, left[name], inside, seen)
        elif left or now.get("additionalProperties") is False:
            yield inside, "is gone"
    if isinstance(was.get("items"), dict) and isinstance(now.get("items"), dict):
        yield from narrowed(old, was["items"], new, now["items"], f"{at}/*", seen)


def has(value: Any, pointer: str) -> bool:
    """Say whether a value has something at a pointer, whose stars are any item of a list."""
    values = [value]
    for name in names_in(pointer):
        values = [
            inner
            for one in values
            for inner in (
                one
                if isinstance(one, list) and name == "*"
                else [one[name]]
                if isinstance(one, dict) and name in one
                else []
            )
        ]
    return bool(values)
