"""The shape of the code: who imports whom, what an import loads, and that the library knows no business."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import topology

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "trunkline"
MODULES = sorted(LIBRARY.rglob("*.py"))

HEAVY = {
    "kafka",
    "confluent_kafka",
    "aiokafka",
    "faust",
    "httpx",
    "pyreqwest",
    "starlette",
    "uvicorn",
    "sqlite3",
    "psycopg",
}
ORDINARY = {
    *("age", "amount", "and", "category", "complete", "delta", "discount", "end", "example", "income", "init"),
    *("journey", "kind", "line", "name", "quantity", "recorded", "signal", "sink", "size", "sold", "start", "step"),
    *("store", "table"),
    *("carrier", "moved", "number", "picked", "piece", "published", "ready", "second", "send", "statu", "window"),
}
"""Words of the reference project, in the singular, that a library may well use for its own things."""


def loaded_by(code: str) -> set[str]:
    """Give what a program has loaded: the first parts of the modules' names."""
    code += "; import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["trunkline", "topology"])
def test_what_is_declared_loads_no_broker_client_http_client_or_database(module: str) -> None:
    assert HEAVY.isdisjoint(loaded_by(f"import {module}"))


def test_the_list_of_commands_loads_none_of_them() -> None:
    code = "from trunkline.cli.main import commands; commands(['--help'], standalone_mode=False)"
    assert loaded_by(code) & HEAVY == {"sqlite3"}  # of the one ledger that commands look into


def test_a_worker_loads_nothing_that_only_some_need() -> None:
    only_some = {"cel_expr_python", "jsonschema", "openapi_schema_validator", "psycopg", "faust", "rocksdict"}
    assert loaded_by("import trunkline.cli.worker") & {"confluent_kafka", *only_some} == {"confluent_kafka"}


def test_what_keeps_workers_running_loads_less_than_they_do() -> None:
    assert loaded_by("import trunkline.cli.run") & HEAVY == {"sqlite3"}


def test_the_contracts_of_import_linter_hold() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_own_code_is_imported_at_the_top_of_a_module(path: Path) -> None:
    tree = ast.parse(path.read_text())
    inner = {
        node.lineno
        for outer in ast.walk(tree)
        if not isinstance(outer, ast.Module)
        for node in ast.iter_child_nodes(outer)
        if isinstance(node, ast.Import | ast.ImportFrom) and is_own(node)
    }
    assert inner == set(), "a function-local or TYPE_CHECKING import of own code: a layer is wrong"


def is_own(node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or str(node.module).partition(".")[0] == "trunkline"
    return any(name.name.partition(".")[0] == "trunkline" for name in node.names)


def words(text: str) -> set[str]:
    """Take names apart at every border, in the singular: `StockMovementV1` and `stock-movements` alike."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)
    return {part.lower().removesuffix("s") for part in parts if len(part) > 2}


def nouns() -> set[str]:
    """Give the words of the reference project: of its records, fields, topics, systems and files."""
    bus = topology.bus
    parts: list[Any] = [bus, *bus.topics, *bus.tables, *bus.sources, *bus.sinks]
    names = [part.name for part in parts]
    names += [sink.target.name for sink in bus.sinks]
    names += [path.stem for folder in ("producers", "consumers") for path in (ROOT / folder).rglob("*.*")]
    for path in (ROOT / "schemas").glob("*.avsc"):
        names += [path.name.partition(".")[0], *named(json.loads(path.read_text()))]
    return {word for name in names for word in words(name)} - ORDINARY


def named(definition: Any) -> Iterator[str]:
    """Yield every name in an Avro definition."""
    if isinstance(definition, dict) and isinstance(definition.get("name"), str):
        yield definition["name"]
    if isinstance(definition, dict | list):
        for value in definition.values() if isinstance(definition, dict) else definition:
            yield from named(value)


def test_there_are_nouns_to_look_for() -> None:
    assert {"shop", "sale", "basket", "stock", "warehouse", "movement", "campaign", "household", "coupon"} <= nouns()


@pytest.mark.parametrize(
    "path", [*MODULES, *sorted(LIBRARY.rglob("*.xml"))], ids=lambda path: str(path.relative_to(LIBRARY))
)
def test_the_library_names_no_business(path: Path) -> None:
    assert words(path.read_text()) & nouns() == set()


@pytest.mark.parametrize(("folder", "more"), [("mutants", []), ("simulator/defects", ["--recount"])])
def test_planted_defects_fit_the_code(folder: str, more: list[str]) -> None:
    """Else nobody knows, until somebody runs them, that they show nothing any more."""
    patches = sorted((ROOT / "tests" / "trunkline" / folder).glob("*.patch"))
    fitting = ["git", "apply", "--check", "-C1", *more]
    done = {path.stem: subprocess.run([*fitting, path], cwd=ROOT, capture_output=True, check=False) for path in patches}
    assert done
    assert {name: one.stderr.decode() for name, one in done.items() if one.returncode != 0} == {}


@pytest.mark.xdist_group("kept")
def test_tests_of_one_group_are_run_by_one_process(request: pytest.FixtureRequest) -> None:
    """Else each process makes anew what they share: clusters, gateways, what a type checker has read."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("all tests are run by one process")
    assert request.node.nodeid.endswith("@kept"), "pytest has changed how it names tests, and pytest-xdist has not"
