"""A worker with its port, until it is told to stop."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Collection

import uvicorn

from trunkline.engine.worker import Worker
from trunkline.errors import UsageError
from trunkline.flow.declare import Bus
from trunkline.gateway.app import build
from trunkline.observe import Metrics, Observer, every
from trunkline.settings import Settings

REQUEST_SECONDS = 15


async def serve(
    bus: Bus,
    settings: Settings,
    bootstrap: str,
    *,
    flows: Collection[str] = (),
    observe: Observer,
    ready: Callable[[str], None],
) -> bool:
    """Run flows until SIGTERM or SIGINT, then drain; say whether everything in flight had ended.

    `ready` is called with the address of the port when everything runs. A second signal ends the process at once.

    Raises:
        UsageError: a flow is unknown, a secret is not set, or the port is taken.
        Unavailable: broker, ledger or a table cannot be reached.
    """
    metrics = Metrics()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda number=number: stop(stopping, number))  # type: ignore[misc]
    port = bind(settings)
    async with Worker(bus, settings, bootstrap, observe=every(metrics, observe), flows=flows) as worker:
        app = build(worker.publishers, worker.registry, metrics.registry, worker.stopped)
        server = Server(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=REQUEST_SECONDS,
                h11_max_incomplete_event_size=16 * 1024,
            )
        )
        serving = loop.create_task(server.serve(sockets=[port]))
        ready("http://{}:{}".format(*port.getsockname()[:2]))
        await stopping.wait()
        server.should_exit = True
        await serving
    return worker.drained


def bind(settings: Settings) -> socket.socket:
    """Take the port before anything starts."""
    host, port = settings.gateway.host, settings.gateway.port
    try:
        return socket.create_server((host, port), backlog=2048, reuse_port=False)
    except OSError as error:
        raise UsageError(
            f"port {port} of {host} cannot be taken: {error.strerror}. Set TRUNKLINE_GATEWAY__PORT to a free one, or 0."
        ) from None


class Server(uvicorn.Server):
    """uvicorn without its own signal handling."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as uvicorn has it
        """Leave the signals to `serve`."""
        yield


def stop(stopping: asyncio.Event, number: int) -> None:
    """Ask for the drain; when asked twice, end at once: what is not recorded will come again."""
    if stopping.is_set():
        os._exit(128 + number)
    stopping.set()
