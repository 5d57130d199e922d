"""The topology for people and programs: as a tree, as a Mermaid flowchart, as plain data."""

from datetime import timedelta
from typing import Any

from rich.text import Text
from rich.tree import Tree

from trunkline.flow.credentials import settings_of
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Lookup,
    Process,
    Publish,
    Route,
    Table,
    Target,
    Topic,
    Wait,
    body_of,
    dead_letters_of,
    flow_name,
    identity_of,
    inputs_of,
    lookups_of,
    parts_of,
    tables_of,
)
from trunkline.flow.functions import name_of
from trunkline.flow.where import REST, Where
from trunkline.settings import Env, Secret

SHAPES = {
    "source": ("[/", "/]"),
    "topic": ("([", "])"),
    "table": ("[(", ")]"),
    "process": ("[", "]"),
    "agent": ("[[", "]]"),
    "sink": ("[\\", "\\]"),
    "target": ("{{", "}}"),
    "dead": ("([", "])"),
}
"""How Mermaid draws each kind of thing."""
AFTER_DEAD = {"continue": "", "park_key": " and parks the key", "block": " and blocks the key"}


def tree(bus: Bus) -> Tree:
    """Draw what follows what, from the sources to the targets; a topic that two flows write is drawn out once."""
    root = Tree(Text(bus.name, style="bold"), guide_style="dim")
    drawn: set[str] = set()
    for flow in bus.flows:
        if isinstance(flow, Publish):
            branch = root.add(line(flow.source.name, "green", f"posts to /in/{flow.source.name}"))
            draw_topic(branch, bus, flow.to, drawn)
    return root


def line(name: str, style: str, told: str = "") -> Text:
    """Write a node: its name, and what there is to say of it."""
    return Text.assemble((name, style), (f"  {told}", "dim") if told else "")


def draw_topic(branch: Tree, bus: Bus, topic: Topic, drawn: set[str]) -> None:
    """Draw a topic and the flows that read it."""
    told = f"{topic.record.__name__} by {topic.key}" if topic.key else topic.record.__name__
    if topic.name in drawn:
        branch.add(line(topic.name, "cyan", f"{told}, drawn above"))
        return
    drawn.add(topic.name)
    node = branch.add(line(topic.name, "cyan", told))
    for flow in bus.flows:
        match flow:
            case Process() if flow.topic.name == topic.name:
                draw_process(node.add(line(flow_name(flow), "bold")), bus, flow, drawn)
            case Agent() if topic.name in [read.name for read in inputs_of(flow)]:
                draw_agent(node, bus, flow, topic, drawn)
            case Deliver() if flow.topic.name == topic.name:
                patience = f"gives up after {span(flow.retry.give_up_after)}{AFTER_DEAD[flow.after_dead]}"
                node.add(line(flow.to.name, "magenta", f"→ {told_of(flow.to.target)}, {patience}"))
            case _:
                pass


def span(duration: timedelta) -> str:
    """Say how long a duration is, in the largest unit that gives a round number."""
    seconds = duration.total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def draw_process(node: Tree, bus: Bus, flow: Process, drawn: set[str]) -> None:
    """Draw the steps of a flow with their tables, then its routes with their topics."""
    for step in flow.steps:
        tables = ", ".join(map(looked_up, parts_of(step)))
        node.add(line(name_of(body_of(step)), "", f"looks up {tables}" if tables else ""))
    for topic, route in flow.to.items():
        draw_topic(node.add(line(name_of(route), "yellow", asked(route))), bus, topic, drawn)


def looked_up(part: Table | Lookup) -> str:
    """Name a table, and what a missing row means; or a look-up, and whom it asks."""
    if isinstance(part, Lookup):
        return f"{part.name} at {part.target.name} by {part.key}"
    table = part
    match table.missing:
        case Wait(seconds):
            return f"{table.name} (waits {seconds:g} s for a row, then dead)"
        case "dead":
            return f"{table.name} (dead without a row)"
        case _:
            return table.name


def draw_agent(node: Tree, bus: Bus, flow: Agent, topic: Topic, drawn: set[str]) -> None:
    """Draw an agent below its own topic; below the one that it joins, only that it does."""
    if topic.name != flow.topic.name:
        node.add(line(flow_name(flow), "bold", f"joined there with {flow.topic.name}"))
        return
    joined = "" if flow.join is None else f", joined with {flow.join.name}"
    branch = node.add(line(flow_name(flow), "bold", f"remembers {remembered(flow.window)}{joined}"))
    draw_topic(branch, bus, flow.to, drawn)


def remembered(window: timedelta | Env) -> str:
    """Say for how long an agent remembers an event; a setting by its name."""
    return span(window) if isinstance(window, timedelta) else f"${window.name}"


def asked(route: Route) -> str:
    """Say which events a route takes."""
    if not isinstance(route, Where):
        return ""
    rest = "of what no route above took" if route.unless else ""
    return rest if route.condition == REST else f"where {route.condition}{', ' if rest else ''}{rest}"


def told_of(target: Target) -> str:
    """Describe a target without any secret: its address and key by the names of their variables."""
    told = f"{target.name} at ${target.url.name}"
    return told if target.limit is None else f"{told}, at most {target.limit.events:g} a {target.limit.per}"


class Chart:
    """A Mermaid flowchart in the making."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}
        self._nodes: list[str] = []
        self._edges: list[str] = []

    def node(self, kind: str, name: str, label: str = "") -> str:
        """Give the id of a node, which is drawn when it is first asked for."""
        if (kind, name) not in self._ids:
            begin, end = SHAPES[kind]
            found = self._ids[kind, name] = f"{kind}{sum(other == kind for other, _ in self._ids) + 1}"
            self._nodes.append(f'    {found}{begin}"{label or name}"{end}')
        return self._ids[kind, name]

    def edge(self, start: str, arrow: str, end: str) -> None:
        """Draw an edge."""
        self._edges.append(f"    {start} {arrow} {end}")

    def __str__(self) -> str:
        return "\n".join(["flowchart LR", *self._nodes, *self._edges])


def mermaid(bus: Bus) -> str:
    """Draw the topology as a Mermaid flowchart; dotted edges lead to dead-letter topics."""
    chart = Chart()
    for name, flow in bus.named():
        match flow:
            case Publish():
                chart.edge(chart.node("source", flow.source.name), "-->", chart.node("topic", flow.to.name))
            case Process():
                steps = "".join(f"<br/>{name_of(body_of(step))}" for step in flow.steps)
                node = chart.node("process", name, f"<b>{name}</b>{steps}")
                chart.edge(chart.node("topic", flow.topic.name), "-->", node)
                for table in [table for step in flow.steps for table in tables_of(step)]:
                    chart.edge(chart.node("table", table.name), "-->", node)
                for lookup in [lookup for step in flow.steps for lookup in lookups_of(step)]:
                    chart.edge(chart.node("target", lookup.target.name), f'-->|"{lookup.name}"|', node)
                for topic, route in flow.to.items():
                    chart.edge(node, f'-->|"{name_of(route)}"|', chart.node("topic", topic.name))
                chart.edge(node, "-.->", chart.node("dead", dead_letters_of(identity_of(flow))))
            case Agent():
                node = chart.node("agent", name, f"<b>{name}</b><br/>{remembered(flow.window)}")
                for read in inputs_of(flow):
                    chart.edge(chart.node("topic", read.name), "-->", node)
                chart.edge(node, "-->", chart.node("topic", flow.to.name))
                chart.edge(node, "-.->", chart.node("dead", dead_letters_of(identity_of(flow))))
            case Deliver():
                node = chart.node("sink", name, flow.to.name)
                chart.edge(chart.node("topic", flow.topic.name), "-->", node)
                chart.edge(node, "-->", chart.node("target", flow.to.target.name))
                chart.edge(node, "-.->", chart.node("dead", dead_letters_of(identity_of(flow))))
    return str(chart)


def data(bus: Bus) -> dict[str, Any]:
    """Give the topology as plain data: what there is, by name, and the flows in their order."""
    flows: list[dict[str, Any]] = []
    for name, flow in bus.named():
        kind: dict[str, Any] = {"name": name, "kind": type(flow).__name__.lower(), "where": flow.where}
        match flow:
            case Publish():
                flows.append(kind | {"source": flow.source.name, "writes": [flow.to.name]})
            case Process():
                steps = [
                    {
                        "step": name_of(body_of(step)),
                        "tables": names(tables_of(step)),
                        "lookups": names(lookups_of(step)),
                    }
                    for step in flow.steps
                ]
                routes = [route_data(topic, route) for topic, route in flow.to.items()]
                more = {"steps": steps, "routes": routes, "dead_letters": dead_letters_of(identity_of(flow))}
                flows.append(kind | {"reads": flow.topic.name, "writes": names(flow.to)} | more)
            case Agent():
                more = {"joins": names(inputs_of(flow)[1:]), "window": remembered(flow.window)}
                letters = {"dead_letters": dead_letters_of(identity_of(flow))}
                flows.append(kind | {"reads": flow.topic.name, "writes": [flow.to.name]} | more | letters)
            case Deliver():
                seconds = flow.retry.give_up_after.total_seconds()
                more = {"reads": flow.topic.name, "sink": flow.to.name, "target": flow.to.target.name}
                patience = {"give_up_after_seconds": seconds, "after_dead": flow.after_dead}
                more |= {"speaks": flow.to.speaks} if flow.to.speaks else {}
                flows.append(kind | more | patience | {"dead_letters": dead_letters_of(identity_of(flow))})
    return {
        "bus": bus.name,
        "flows": flows,
        "topics": [stored(topic) | {"keep_seconds": topic.keep.total_seconds()} for topic in bus.topics],
        "tables": [stored(table) | {"missing": missing_of(table)} for table in bus.tables],
        "lookups": [lookup_data(lookup) for lookup in bus.lookups],
        "targets": [target_data(target) for target in bus.targets.values()],
    }


def route_data(topic: Topic, route: Route) -> dict[str, Any]:
    """Describe a route, with its condition if it has one."""
    told = {"route": name_of(route), "topic": topic.name}
    return told | {"where": route.condition, "first_match": bool(route.unless)} if isinstance(route, Where) else told


def names(parts: Any) -> list[str]:
    """Give the names of topics or tables."""
    return [part.name for part in parts]


def stored(part: Topic | Table) -> dict[str, Any]:
    """Describe what lies on a topic or table."""
    return {
        "name": part.name,
        "record": part.record.__name__,
        "event_type": part.schema.event_type,
        "key": part.key,
        "partitions": part.partitions,
    }


def missing_of(table: Table) -> str | dict[str, float]:
    """Describe what a missing row means."""
    return {"wait_seconds": table.missing.seconds} if isinstance(table.missing, Wait) else table.missing


def lookup_data(lookup: Lookup) -> dict[str, Any]:
    """Describe a look-up."""
    return {
        "name": lookup.name,
        "target": lookup.target.name,
        "path": lookup.path,
        "record": lookup.record.__name__,
        "key": lookup.key,
        "together": lookup.together,
        **{f"{name}_seconds": getattr(lookup, name).total_seconds() for name in ("ttl", "absent", "stale")},
    }


def target_data(target: Target) -> dict[str, Any]:
    """Describe a target by the names of its variables, never by their values."""
    limit = None if target.limit is None else {"events": target.limit.events, "per": target.limit.per}
    secrets = [one.name for one in settings_of(target.auth) if isinstance(one, Secret)]
    return {"name": target.name, "url": target.url.name, "secrets": secrets, "limit": limit}
