"""`trunkline run`: start flows and keep them running until SIGTERM.

The command supervises. Each worker is a process of its own (cli/worker.py) that is given the numbers of the sockets it
inherits. So a port is taken once, stays taken while a worker starts again, and what is posted meanwhile waits or goes
to another worker.
"""

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import typer

from trunkline import settings
from trunkline.cli.project import load_bus, talk
from trunkline.cli.supervisor import Process, supervise
from trunkline.errors import UsageError
from trunkline.gateway.ports import bind
from trunkline.settings import Settings

OWN_PORTS = 10
"""How far above the gateway's port those begin that each of several workers has for itself."""


def run(
    flows: Annotated[
        list[str] | None, typer.Argument(metavar="FLOW", help="Names of flows; all when none is named.")
    ] = None,
    *,
    start: Annotated[
        str | None, typer.Option(help="Where a flow begins that has read nothing yet: earliest, latest or a time.")
    ] = None,
) -> None:
    """Run flows: receive, process, deliver, until SIGTERM; then finish what is in flight.

    A worker that ends by itself is started again. Exits 0 when everything in flight had ended, 1 when not.
    """
    config = settings.load()
    if start is not None:
        moment(start)
    if flows:
        load_bus().chosen(flows)
    sys.exit(oversee(config, [*([] if start is None else ["--start", start]), *(flows or [])]))


def oversee(config: Settings, arguments: Sequence[str]) -> int:
    """Keep the configured number of workers running and give the exit code.

    Raises:
        UsageError: a port is taken.
    """
    host, port, count, first = config.gateway.host, config.gateway.port, config.worker.processes, config.worker.slot
    shared = bind(host, port)
    own = [bind(host, port and port + OWN_PORTS + number) for number in range(count)] if count > 1 else []
    again = [sys.executable, "-P", "-c", "from trunkline.cli.main import app; app()", "run-worker"]
    workers = []
    for number in range(count):
        files = [one.fileno() for one in (shared, *own[number : number + 1])]
        command = [*again, ",".join(map(str, files)), *arguments]
        slot = first + number
        workers.append(Process(f"worker {slot}", command, {"TRUNKLINE_WORKER__SLOT": str(slot)}, files))
    return asyncio.run(supervise(workers, lambda line: talk.print(line, markup=False)))


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
        raise UsageError(f"--start {text}: add the time's offset, such as {time.isoformat()}Z.")
    return time
