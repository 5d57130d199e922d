"""What a step, route or adapter says of itself: where it stands, its annotations, and the records it writes literally.

Reads source files and nothing else; where the source says nothing, neither does this module.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeGuard, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from trunkline.event import Event

Body = Callable[..., Any]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def name_of(function: Body) -> str:
    """Give the name a function was written under."""
    return str(getattr(function, "__name__", type(function).__name__))


def located(function: Body) -> str:
    """Name a function and where it is: `placed (consumers/steps/orders.py:12)`."""
    node = node_of(function)
    return name_of(function) if node is None else f"{name_of(function)} ({place(function, node)})"


def place(function: Body, node: ast.expr | ast.stmt) -> str:
    """Give `file:line` of a node of a function, relative to the working directory or to where it was imported from."""
    path = Path(inspect.unwrap(function).__code__.co_filename)
    folders = [folder for folder in (str(Path.cwd()), *sys.path) if path.is_relative_to(folder)]
    return f"{path.relative_to(folders[0]) if folders else path}:{node.lineno}"


def node_of(function: Body) -> Definition | None:
    """Give the syntax of a function; None when it has no source or shares its line with another."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return None
    found = [
        node
        for node in ast.walk(syntax(Path(code.co_filename)))
        if isinstance(node, Definition) and first_line(node) == code.co_firstlineno
    ]
    return found[0] if len(found) == 1 else None


def first_line(node: Definition) -> int:
    """Give the line that a function's code begins at: its first decorator's."""
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def syntax(path: Path) -> ast.Module:
    """Parse a file; an unreadable one is empty."""
    try:
        return ast.parse(path.read_text())
    except (OSError, ValueError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])


def variable(where: str) -> str:
    """Give the variable that the declaration at `file:line` was assigned to, or an ellipsis."""
    path, _, line = where.rpartition(":")
    for node in ast.walk(syntax(Path(path))):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if str(value.lineno) == line:
                return name
    return "…"


def annotations(function: Body) -> dict[str, Any]:
    """Give a function's annotations as types; none when one of them cannot be resolved."""
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation is any expression; a wrong one is the type checker's to report
        return {}


def parameters(function: Body) -> list[inspect.Parameter] | None:
    """Give a function's parameters; None when it does not tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None


def takes(function: Body, count: int) -> bool:
    """Say whether a function can be called with this many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except ValueError:
        return True
    except TypeError:
        return False
    return True


def argument(function: Body, position: int) -> Any:
    """Give the annotation of a parameter, None when there is none."""
    found = parameters(function) or []
    return annotations(function).get(found[position].name) if position < len(found) else None


def members(hint: Any) -> tuple[Any, ...]:
    """Give the types that a union is made of; a type that is no union alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def data_of(hint: Any, carrier: type = Event) -> Any:
    """Give the X of `Event[X]` or of another carrier, also in a union with others; None when it is not said."""
    found = [get_args(member)[0] for member in members(hint) if get_origin(member) is carrier]
    return found[0] if len(found) == 1 else None


def item_of(hint: Any) -> Any:
    """Give the X of `Iterator[X]`, `list[X]` and their like; None when it is not said."""
    origin = get_origin(hint)
    is_many = isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)
    return get_args(hint)[0] if is_many and get_args(hint) else None


def is_record(hint: Any) -> TypeGuard[type]:
    """Say whether a type names fields."""
    return bool(is_typeddict(hint))


def written(function: Body) -> Iterator[ast.Dict]:
    """Yield the records that a route writes out as `{"field": …}`, in order of line."""
    node = node_of(function)
    found: list[ast.Dict] = []
    match node:
        case ast.Lambda(body=body):
            found += dicts(body)
        case ast.FunctionDef():
            for part in own(node):
                match part:
                    case ast.Yield(value=ast.Dict() as record):
                        found.append(record)
                    case ast.YieldFrom(value=ast.expr() as many) | ast.Return(value=ast.expr() as many):
                        found += dicts(many)
    yield from sorted(found, key=lambda record: record.lineno)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a function's syntax without the functions and classes inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition | ast.ClassDef):
            yield child
            yield from own(child)


def dicts(many: ast.expr) -> list[ast.Dict]:
    """Give the literal records of a literal list or of a comprehension."""
    match many:
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [item for item in items if isinstance(item, ast.Dict)]
        case ast.ListComp(elt=ast.Dict() as record) | ast.GeneratorExp(elt=ast.Dict() as record):
            return [record]
    return []


def fields_in(module: ast.Module, name: str) -> dict[str, str]:
    """Give the annotated fields of a class of a module, as they are written."""
    return {
        field.target.id: ast.unparse(field.annotation)
        for node in module.body
        if isinstance(node, ast.ClassDef) and node.name == name
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
