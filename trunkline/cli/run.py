"""`trunkline run`: start flows and keep them running until SIGTERM.

The command supervises. Each worker is a process of its own that runs the same command again with `--worker`: the
numbers of the sockets it inherits. So a port is taken once, stays taken while a worker starts again, and what is
posted meanwhile waits or goes to another worker.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Annotated, Literal

import structlog
import typer
import uvloop

from trunkline import settings
from trunkline.cli.project import bootstrap, load_bus, looking, talk
from trunkline.cli.supervisor import Process, supervise
from trunkline.errors import UsageError
from trunkline.flow.declare import Bus
from trunkline.gateway.server import bind, serve
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Passed
from trunkline.kafka.topics import control_of
from trunkline.observe import NOBODY, Every, Log, Observer
from trunkline.operate.leaving import left
from trunkline.redact import redact_data
from trunkline.settings import Settings

OWN_PORTS = 10
"""How far above the gateway's port those begin that each of several workers has for itself."""

SWITCH = 0.0005
"""Seconds for which a thread that computes may keep the loop from running: the default is ten times as long."""
COLLECT = (1_000_000, 10, 10)
"""When the interpreter looks for cycles: thousands of events wait at any time, and none of them is in one."""


def run(
    flows: Annotated[list[str] | None, typer.Argument(help="Names of flows; all when none is named.")] = None,
    *,
    start: Annotated[
        str | None, typer.Option(help="Where a flow begins that has read nothing yet: earliest, latest or a time.")
    ] = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run flows: receive, process, deliver, until SIGTERM; then finish what is in flight.

    A worker that ends by itself is started again. Exits 0 when everything in flight had ended, 1 when not.
    """
    config = settings.load()
    if start is not None:
        moment(start)
    if worker is None:
        sys.exit(oversee(config, [*(flows or []), *([] if start is None else ["--start", start])]))
    ports = [socket.socket(fileno=int(number)) for number in worker.split(",")]
    for port in ports:
        port.set_inheritable(False)
    leave_with_supervisor()
    ended = work(load_bus(), config, flows or [], start=start, ready=lambda _: say_running(), ports=ports)
    sys.exit(0 if ended else 1)


def oversee(config: Settings, arguments: Sequence[str]) -> int:
    """Keep the configured number of workers running and give the exit code.

    Raises:
        UsageError: a port is taken.
    """
    host, port, count, first = config.gateway.host, config.gateway.port, config.worker.processes, config.worker.slot
    shared = bind(host, port)
    own = [bind(host, port and port + OWN_PORTS + number) for number in range(count)] if count > 1 else []
    again = [sys.executable, "-P", "-c", "from trunkline.cli.main import app; app()", "run"]
    workers = []
    for number in range(count):
        files = [one.fileno() for one in (shared, *own[number : number + 1])]
        command = [*again, "--worker", ",".join(map(str, files)), *arguments]
        slot = first + number
        workers.append(Process(f"worker {slot}", command, {"TRUNKLINE_WORKER__SLOT": str(slot)}, files))
    return asyncio.run(supervise(workers, lambda line: talk.print(line, markup=False)))


def say_running() -> None:
    """Tell the supervisor that everything runs."""
    with suppress(BrokenPipeError):  # it has gone, and we know by now
        os.write(sys.stdin.fileno(), b"\n")


def leave_with_supervisor() -> None:
    """Drain when the supervisor has gone: its end of our standard input has gone with it, however it ended."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def wait() -> None:
        with suppress(ConnectionResetError):  # it had not read what we wrote
            os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def work(
    bus: Bus,
    config: Settings,
    flows: list[str],
    *,
    start: str | None = None,
    observe: Observer = NOBODY,
    ready: Callable[[str], None] = lambda _: None,
    ports: Sequence[socket.socket] = (),
) -> bool:
    """Run flows in this process and say whether all had ended well; tests pass an observer of their own.

    Raises:
        UsageError: an unknown flow, a missing topic, secret or start, a port that is taken.
        Unavailable: broker, ledger or a table cannot be reached.
    """
    faulthandler.enable()
    set_up_logging()
    address = bootstrap(config)
    names = flows or [name for name, _ in bus.named()]
    with Control(address) as control, looking(config) as db:
        if db is not None and (gone := left(bus, control, db)):
            raise UsageError(" ".join(map(str, gone)))
        control.start_offsets(bus, names, None if start is None else moment(start), partial(note, bus, address))

    def say(url: str) -> None:
        own = f"; its own port http://{config.gateway.host}:{ports[-1].getsockname()[1]}" if len(ports) > 1 else ""
        talk.print(f"running {', '.join(names)}; port {url}; broker {address}{own}", markup=False)
        ready(url)

    sys.setswitchinterval(SWITCH)
    gc.freeze()
    gc.set_threshold(*COLLECT)
    return uvloop.run(serve(bus, config, address, flows=flows, observe=Every(Log(), observe), ready=say, ports=ports))


def note(bus: Bus, address: str, gaps: Sequence[Passed]) -> None:
    """Keep on the control topic what flows never read: `status` counts it, and no rebuild takes it for delivered."""
    with closing(Sender(address)) as sender:
        orders.send(sender, control_of(bus), [change for gap in gaps for change in orders.passing(gap)])


def moment(text: str) -> Literal["earliest", "latest"] | datetime:
    """Read where to begin.

    Raises:
        UsageError: it is neither a word we know nor an RFC 3339 time with its offset.
    """
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--start {text}: say earliest, latest, or a time such as 2026-01-31T08:00:00Z.") from None
    if time.tzinfo is None:
        raise UsageError(f"--start {text}: add the time's offset, such as {text}Z.")
    return time


def set_up_logging() -> None:
    """Log one JSON object a line on stderr, or coloured lines where a person looks on; others' words and bugs too.

    Every value goes through the redactor, and so does the text of an exception that nobody has caught.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        clean,
    ]
    last: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        last = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last], foreign_pre_chain=shared
        )
    )
    for name in ("librdkafka", "asyncio", "uvicorn.error", "opentelemetry", "faust", "mode"):
        logging.getLogger(name).addHandler(handler)
    sys.excepthook = tell
    threading.excepthook = lambda caught: tell(caught.exc_type, caught.exc_value, caught.exc_traceback)


def clean(_logger: object, _method: str, said: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Redact what is about to be logged."""
    return {name: redact_data(value, name) for name, value in said.items()}


def tell(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log an exception that nobody has caught."""
    structlog.get_logger("trunkline").critical("bug in Trunkline", exc_info=(kind, error, trace))
