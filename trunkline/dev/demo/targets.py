"""The server that stands for every target, and how a sink's target is found there."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from trunkline.dev.demo.place import free_port
from trunkline.dev.target.running import RunningTarget, start
from trunkline.errors import UsageError
from trunkline.flow.credentials import ApiKey
from trunkline.flow.declare import Bus, Target
from trunkline.settings import Settings


def targets(bus: Bus) -> dict[str, Target]:
    """Give every target that a sink calls, by name."""
    return {flow.to.target.name: flow.to.target for flow in bus.delivering.values()}


def api_of(target: Target) -> str:
    """Name a target's API at the development server: the first segment of its address's path, else its own name.

    Raises:
        UsageError: its address is not set.
    """
    return urlsplit(target.url.read()).path.strip("/").partition("/")[0] or target.name


def address_of(target: Target, base: str) -> str:
    """Give a target's address at the development server."""
    path = urlsplit(target.url.read()).path.rstrip("/") or f"/{target.name}"
    return urlunsplit((*urlsplit(base)[:2], path, "", ""))


def start_target(bus: Bus, folder: Path) -> RunningTarget:
    """Start the server that stands for every target, at the port of their addresses when it is free.

    Raises:
        UsageError: an address or a secret is not set.
        Unavailable: it did not start.
    """
    every = targets(bus)
    keyed = [(api_of(one), one.auth) for one in every.values() if isinstance(one.auth, ApiKey)]
    require = [f"{api}:{auth.header}:{auth.secret.read()}" for api, auth in keyed]
    wanted = next((urlsplit(one.url.read()).port for one in every.values()), None)
    return start(folder / "target.db", free_port("127.0.0.1", wanted or 0), require)


@contextlib.contextmanager
def announced(bus: Bus, settings: Settings, base: str) -> Iterator[None]:
    """Let `demo break` and `demo heal` find the target for as long as it is up."""
    file = settings.state / "demo.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: address_of(one, base) for name, one in targets(bus).items()}))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def aim(bus: Bus, settings: Settings, name: str) -> tuple[str, str]:
    """Find the API that is meant by the name of a sink or a target: the server's address, and the API's name there.

    Raises:
        UsageError: there is no such sink or target, or nobody knows its address.
    """
    known = {flow.to.name: flow.to.target for flow in bus.delivering.values()} | targets(bus)
    if name not in known:
        raise UsageError(f"there is no sink or target {name}. There are: {', '.join(known)}.")
    try:
        url = json.loads((settings.state / "demo.json").read_text())[known[name].name]
    except (OSError, ValueError, KeyError):
        url = known[name].url.read()
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/").partition("/")[0] or known[name].name
