"""Who reads a field: found by a type checker in what is annotated, and by walking the examples in what is not.

Pure but for the project's own source files, which are read.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trunkline.errors import Fault
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Process,
    Publish,
    body_of,
    flow_name,
)
from trunkline.flow.functions import syntax
from trunkline.flow.proposals import Gone

FOLDERS = ("producers", "consumers", "topology.py")
"""The project's code, in the working directory."""
KEY = re.compile(r'TypedDict "(?P<type>\w+)" has no key "(?P<field>[^"]+)"')
EXTRA = re.compile(r'Extra keys? (?P<fields>.+) for TypedDict "(?P<type>\w+)"')


@dataclass(frozen=True, slots=True)
class Reading:
    """A line of the project that reads or writes a field that is gone, or no longer fits."""

    path: str
    line: int
    gone: Gone | None
    what: str
    """reads, writes, or what the type checker says."""


@dataclass(frozen=True, slots=True)
class Place:
    """A function of the project: where it begins and ends, what it is called, and the names that it uses."""

    path: str
    name: str
    title: str
    """The name with its class's before it."""
    first: int
    last: int
    uses: frozenset[str]


# In annotated code.


def sources() -> list[Path]:
    """Give the project's source files, relative to the working directory."""
    found: list[Path] = []
    for name in FOLDERS:
        path = Path(name)
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []
    return found


def plainly(text: str, fields: Iterable[str]) -> str:
    """Write a source so that a type checker sees as plain reads what it lets pass: `.get("f")`, `"f" in`, `case {"f"`.

    Every line keeps its number. The result is read by the type checker and by nothing else.
    """
    wanted = set(fields)
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    raw = text.encode()

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    edits: list[tuple[int, int, str]] = []

    def edit(start: int, end: int, new: str) -> None:
        edits.append((start, end, new + "\n" * raw[start:end].count(b"\n")))

    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.expr() as value, attr="get"), args=[ast.Constant(value=str(field)), *_]
            ) if field in wanted:
                begin, end = (
                    at(value.end_lineno or 0, value.end_col_offset or 0),
                    at(node.end_lineno or 0, node.end_col_offset or 0),
                )
                edits.append((begin, end, f'["{field}"' + "\n" * raw[begin:end].count(b"\n") + "]"))
            case ast.Compare(
                left=ast.Constant(value=str(field)), ops=[ast.In() | ast.NotIn()], comparators=[ast.expr() as value]
            ) if field in wanted:
                begin, end = at(node.lineno, node.col_offset), at(value.lineno, value.col_offset)
                after = at(value.end_lineno or 0, value.end_col_offset or 0)
                edits.append((begin, end, "(" + "\n" * raw[begin:end].count(b"\n")))
                edits.append((after, after, f')["{field}"]'))
            case ast.Match(subject=subject, cases=cases):
                named = [
                    key.value
                    for case in cases
                    for pattern in ast.walk(case.pattern)
                    if isinstance(pattern, ast.MatchMapping)
                    for key in pattern.keys
                    if isinstance(key, ast.Constant) and key.value in wanted
                ]
                if named:
                    begin = at(subject.lineno, subject.col_offset)
                    after = at(subject.end_lineno or 0, subject.end_col_offset or 0)
                    whole = " ".join(raw[begin:after].decode().split())
                    reads = "".join(f', {whole}["{field}"]' for field in dict.fromkeys(named))
                    edits.append((begin, begin, "("))
                    edits.append((after, after, f"{reads})[0]"))
    for start, end, new in sorted(edits, reverse=True):
        raw = raw[:start] + new.encode() + raw[end:]
    return raw.decode()


def readings(errors: Iterable[Mapping[str, Any]], gone: Sequence[Gone]) -> Iterator[Reading]:
    """Read what the type checker says against the types without the fields that are gone; it says more than reads."""
    known = {(one.type_name, one.field): one for one in gone}
    for error in errors:
        path, line, message = error["file"], error["line"], error["message"]
        if (key := KEY.search(message)) and (found := known.get((key["type"], key["field"]))):
            yield Reading(path, line, found, "reads")
        elif extra := EXTRA.search(message):
            for field in re.findall(r'"([^"]+)"', extra["fields"]):
                found = known.get((extra["type"], field))
                yield Reading(path, line, found, "writes" if found else message)
        elif error.get("severity") == "error":
            yield Reading(path, line, None, message)


def is_same(one: Reading, other: Reading) -> bool:
    """Say whether two are of one field in one statement: a type checker names its first line."""
    return (
        one.path == other.path
        and one.gone == other.gone
        and (one.line == other.line or statement(one.path, one.line) == statement(other.path, other.line))
    )


def statement(path: str, line: int) -> int:
    """Give the first line of the innermost statement that a line is in; the line itself where it is in none."""
    around = [
        node.lineno
        for node in ast.walk(syntax(Path(path)))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(around, default=line)


# Who that is.


def places() -> list[Place]:
    """Give every function of the project, inner ones after those around them."""
    return [place for path in sources() for place in functions_in(syntax(path), str(path), "")]


def functions_in(tree: ast.AST, path: str, within: str) -> Iterator[Place]:
    """Give the functions of a syntax tree, which stands within a class or function."""
    for node in ast.iter_child_nodes(tree):
        title = f"{within}.{getattr(node, 'name', '')}".lstrip(".")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            used |= {name.attr for name in ast.walk(node) if isinstance(name, ast.Attribute)}
            yield Place(path, node.name, title, node.lineno, node.end_lineno or node.lineno, frozenset(used))
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from functions_in(node, path, title if named else within)


def roles(bus: Bus) -> dict[tuple[str, str], list[str]]:
    """Say what the functions of the project do on the bus, by file and name: `step of orders.priced`."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(function: Any, role: str) -> None:
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if code is not None and Path(code.co_filename).is_relative_to(Path.cwd()):
            found[str(Path(code.co_filename).relative_to(Path.cwd())), code.co_name].append(role)

    for flow in bus.flows:
        name = flow_name(flow)
        match flow:
            case Publish():
                add(flow.source.events, f"source {flow.source.name}")
            case Process():
                for step in flow.steps:
                    add(body_of(step), f"step of {name}")
                path, _, line = flow.where.rpartition(":")
                found[path, f":{line}"].append(f"a condition of {name}")
                for route in flow.to.values():
                    add(getattr(route, "record", None) or route, f"route of {name}")
            case Agent():
                add(flow.body, f"agent of {name}")
            case Deliver():
                for method in vars(type(flow.to)):
                    add(getattr(flow.to, method, None), f"sink {flow.to.name}")
                for call in getattr(flow.to, "calls", ()):
                    add(getattr(call, "request", None), f"sink {flow.to.name}")
    return found


def who(reading: Reading, known: Sequence[Place], acting: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """Name the function of a line, and the steps, routes, sinks and sources that it is or that call it."""
    inside = [one for one in known if one.path == reading.path and one.first <= reading.line <= one.last]
    if not inside:
        return ", ".join(acting.get((reading.path, f":{reading.line}"), ["the module"]))
    outer, inner = inside[0], inside[-1]
    for one in (inner, outer):
        if found := acting.get((one.path, one.name)):
            return f"{one.title} ({', '.join(dict.fromkeys(found))})"
    seen, ahead, users = {outer.name}, [outer.name], list[str]()
    while ahead:
        name = ahead.pop()
        for one in known:
            if name in one.uses and one.name not in seen:
                seen.add(one.name)
                found = acting.get((one.path, one.name), [])
                users += [f"{one.title}, {role}" for role in found]
                if not found:  # the bus calls the others
                    ahead.append(one.name)
    return f"{outer.title} (for {'; '.join(dict.fromkeys(users))})" if users else outer.title


def fault_of(reading: Reading, known: Sequence[Place], acting: Mapping[tuple[str, str], Sequence[str]]) -> Fault:
    """Say in one line who reads what, and what to do."""
    name, where, gone = who(reading, known, acting), f"{reading.path}:{reading.line}", reading.gone
    if gone is None:
        return Fault(where, f"{name} does not fit what is proposed: {reading.what}")
    own = gone.type_name == gone.proposal.old.type_name
    field = f'{name} {reading.what} "{gone.field}"{"" if own else f" of {gone.record}"}'
    before, after = gone.proposal.old, gone.proposal.told
    if gone.after:
        verb = "Read it as that" if reading.what == "reads" else "Write that"
        return Fault(where, f"{field}, {gone.before} in v{before.version} and {gone.after} in {after}. {verb}.")
    told = f"{field}, which {after} has no more"
    if reading.what == "writes":
        todo = f'Write "{gone.instead}" instead' if gone.instead else "Leave it out"
    else:
        todo = f'Read "{gone.instead}" instead' if gone.instead else "Do without, or keep it"
    return Fault(where, f"{told}. {todo}.")
