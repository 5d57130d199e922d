"""What all workers of pytest-xdist have in common: the first that needs it makes it, the others use it; and ports."""

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from random import SystemRandom

import pytest

PORTS = range(10_000, 20_000)
"""Below those that the kernel lends to clients, one of which could else be lent a port before its server takes it."""


def folder_of(factory: pytest.TempPathFactory) -> Path:
    """Give the folder that the workers share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, which ends with its process."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Give a folder that `make` fills, once; whoever uses it leaves it as it is."""
    folder = folder_of(factory) / name
    with locked(folder.with_suffix(".lock")):
        if not folder.with_suffix(".made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # what one that failed has left would fail all others
            folder.mkdir()
            make(folder)
            folder.with_suffix(".made").touch()
    return folder


@contextmanager
def running(
    factory: pytest.TempPathFactory, name: str, start: Callable[[Path], AbstractContextManager[str]]
) -> Iterator[str]:
    """Give the address of a server that `start` runs in a folder, once, until the session of the last worker ends.

    One lock is held while it is started or looked for, another one is shared by all who use it; the worker that started
    it stops it when nobody does. So this is for fixtures of the session only.
    """
    folder = folder_of(factory) / name
    starting, address = folder.with_suffix(".starting"), folder.with_suffix(".address")
    with folder.with_suffix(".users").open("a") as users, ExitStack() as ours:
        with locked(starting):
            if not address.exists():
                folder.mkdir(exist_ok=True)
                address.write_text(ours.enter_context(start(folder)))
                ours.callback(fcntl.flock, users, fcntl.LOCK_EX)
                ours.callback(forget, starting, address)
            fcntl.flock(users, fcntl.LOCK_SH)
        yield address.read_text()
        fcntl.flock(users, fcntl.LOCK_UN)


def forget(starting: Path, address: Path) -> None:
    """Let whoever needs a server from now on start another."""
    with locked(starting):
        address.unlink()


def free_port() -> int:
    """Give a port that nobody has, and that nobody will be given but by chance."""
    while True:
        port = SystemRandom().choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
