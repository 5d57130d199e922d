"""What can go wrong, drawn by what the caller does next.

TrunklineError
├── UsageError         a command, setting or file is wrong    tell the person, exit 2
├── TopologyError      the declaration is wrong               refuse to start, every fault named, exit 2
├── Rejected           a sender's request is wrong            answer with problem+json, publish nothing
├── Unavailable        a part we depend on does not answer    tell the person or the sender to come back later, exit 1
├── Halt               every event would fail so              pause what shares the cause, keep offsets, alarm
└── Undeliverable      this one event failed
    ├── Retryable      the target's fault                     its key waits and the call is repeated, bounded
    ├── Permanent      the event's fault                      dead letter now
    │   └── Absent         a row that it needs is missing     its key waits where declared, then the same
    ├── Unknown        sent, and no answer came back          repeat under the same idempotency key
    └── Poison         not even an event                      dead letter with the original bytes
        └── UnknownSchema  not to this worker's topology      waits while the fleet is mixed, then the same
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

EXIT = 70
"""The exit code of a process that has found itself to stand still and ended (EX_SOFTWARE of sysexits.h)."""


class TrunklineError(Exception):
    """The root of everything Trunkline raises on purpose; the message is one line that a person can act on."""


class UsageError(TrunklineError):
    """A command, a setting or an input file is wrong; nothing was done. The CLI exits with 2."""


class Rejected(TrunklineError):  # noqa: N818 - what happened to the request
    """A sender's request is wrong: nothing was published. Answered as RFC 9457 problem+json.

    `status` is the HTTP status, `title` the kind of mistake, the message this occurrence of it, and `fields` names
    what to change as (path, what is wrong) pairs.
    """

    def __init__(self, status: int, title: str, detail: str, fields: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.fields = tuple(fields)


class Unavailable(TrunklineError):  # noqa: N818 - named for the state, as HTTP's 503 is
    """The broker or the ledger does not answer now; nothing was acknowledged and the same call may work later."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in a topology: the line that declared it, what is wrong and what to change."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}  {self.message}"


Faults = Iterator[Fault]


class TopologyError(TrunklineError):
    """The declaration is wrong: every fault at once, each with the line that declared it. The CLI exits with 2."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n".join([*map(str, self.faults), f"{count}; nothing was started."]))


class Halt(TrunklineError):  # noqa: N818 - the engine halts; it is not the event's error
    """Every event would fail in the same way: stop what shares the cause, keep its offsets, tell a person.

    `run` is the command that ends it, which the message names; "" where a flow goes on as it does after most halts.
    """

    def __init__(self, message: str, *, run: str = "") -> None:
        super().__init__(message)
        self.run = run

    def told(self, usual: str = "When that is mended, start its workers again.") -> str:
        """Say why, and what to do about it, which is the usual unless the message says another."""
        return str(self) if self.run else f"{str(self).rstrip('.')}. {usual}"


def defect(error: BaseException) -> Halt:
    """Say that the engine did not mean to raise this."""
    return Halt(f"bug in Trunkline: {type(error).__name__}: {error}")


class Undeliverable(TrunklineError):  # noqa: N818 - the word of DESIGN §5
    """This one event could not be handled. `status` is the target's HTTP status, when it gave one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Retryable(Undeliverable):
    """The target's fault: wait and call again. `after` is the target's own wish in seconds, when it named one."""

    def __init__(self, message: str, *, status: int | None = None, after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.after = after


class Permanent(Undeliverable):
    """The event's fault: the same call would be refused for ever. `alarm` says that a person should know at once."""

    def __init__(self, message: str, *, status: int | None = None, alarm: bool = False) -> None:
        super().__init__(message, status=status)
        self.alarm = alarm


class Absent(Permanent):
    """A table has no row that the event needs; `patience` is for how many seconds its key waits for one first (P4)."""

    def __init__(self, message: str, *, patience: float = 0.0) -> None:
        super().__init__(message)
        self.patience = patience


class Unknown(Undeliverable):
    """The request was sent and no answer came: the effect may or may not have happened."""


class Poison(Undeliverable):
    """The record is not an event: no magic byte, no known schema, bytes left over, missing identity."""


class UnknownSchema(Poison):
    """Nobody registered the record's schema, or ours cannot read it: what another topology writes, it may read (L5)."""


def pass_on(error: BaseException) -> None:
    """Raise again what asks our own code to end, through whosever code it has come: nobody may keep that.

    It is the cancelling of a task, and Ctrl-C where Python raises it (a worker hears that as a signal). All else is the
    fault of the code that it comes from, what is no Exception too: it would end the worker, or the task that has the
    event, and each in turn that takes it.
    """
    if isinstance(error, Exception):
        return
    import asyncio  # noqa: PLC0415 - 20 ms of a start that needs no loop
    import signal  # noqa: PLC0415 - with it

    match error:
        case asyncio.CancelledError():
            with suppress(RuntimeError):  # no loop runs here
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise error
        case KeyboardInterrupt() if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise error
        case _:
            pass


def meant(name: str, known: Iterable[str]) -> str:
    """Ask whether those known names were meant that end with a wrong one, or else the nearest; "" for none."""
    known = list(known)
    close = [one for one in known if one.endswith(f".{name}")] or difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {' or '.join(close)}?" if close else ""
