"""A target in a process of its own, and what is asked of it from outside."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from trunkline.dev.target.behaviour import BEHAVIOUR, BEHAVIOURS, Behaviour
from trunkline.dev.target.records import STATS, Stats
from trunkline.errors import Unavailable


class TargetControl:
    """Breaks, heals and asks a running target; every call raises Unavailable when it does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        # No environment: a proxy in it is not meant for this machine.
        self._http = httpx.Client(base_url=f"{url}/_control", timeout=30, trust_env=False)

    def break_(self, behaviour: Behaviour) -> int:
        """Let an API misbehave from now on; return the behaviour's id."""
        answered = self._ask("POST", "/behaviours", content=BEHAVIOUR.dump_json(behaviour))
        number: int = answered.json()["id"]
        return number

    def heal(self, name: str) -> int:
        """End everything that is wrong with an API, cut what it holds and return how many behaviours that ended."""
        healed: int = self._ask("DELETE", "/behaviours", params={"name": name}).json()["healed"]
        return healed

    def behaviours(self) -> dict[int, Behaviour]:
        """Give what is wrong now, by id, in the order it was added."""
        return BEHAVIOURS.validate_json(self._ask("GET", "/behaviours").content)

    def stats(self) -> dict[str, Stats]:
        """Count per API, for every API that was called."""
        return STATS.validate_json(self._ask("GET", "/stats").content)

    def reset(self) -> None:
        """Heal every API and empty the tables."""
        self._ask("POST", "/reset")

    def close(self) -> None:
        """Close the connection; the target goes on."""
        self._http.close()

    def _ask(
        self, method: str, path: str, *, content: bytes | None = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            return self._http.request(method, path, content=content, params=params).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"the target at {self.url} does not answer: {error}.") from error


class RunningTarget:
    """A target in a process of its own; use it as a context manager, or stop it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self.pid = process.pid
        self.control = TargetControl(url)
        self._process = process

    def stop(self) -> int:
        """Let it finish its answers (SIGTERM) and return its exit code."""
        self._process.terminate()
        return self._end()

    def kill(self) -> None:
        """End it at once (SIGKILL); what it answered is in the file."""
        self._process.kill()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self) -> int:
        self.control.close()
        return self._process.wait()


def start(database: Path, port: int = 0, require: Sequence[str] = ()) -> RunningTarget:
    """Start a target in a process of its own and wait until it answers.

    Args:
        database: the file it records in; what an earlier target recorded there stays, and keys stay used.
        port: 0 takes a free one.
        require: NAME:HEADER:VALUE for every API that asks for an API key.

    Raises:
        Unavailable: it did not start; its own line on stderr says why.
    """
    command = [sys.executable, "-m", "trunkline.dev.target", "--port", str(port), "--database", str(database)]
    command.append("@/dev/stdin")  # everybody on the machine can read a command line
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin:
        process.stdin.writelines(f"--require={requirement}\n" for requirement in require)
    with process.stdout:
        word, _, url = process.stdout.readline().partition(" ")
    if word != "target":
        raise Unavailable(f"the target did not start (exit code {process.wait()}); its line above says why.")
    return RunningTarget(process, url.strip())
