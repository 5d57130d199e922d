"""`trunkline demo`: a whole bus on this machine, run, counted, broken, healed and replayed before your eyes."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Span, Text

from trunkline.cli.project import load_bus, out, print_json, safe, talk
from trunkline.dev.demo.place import create_topics, free_port, fresh, place
from trunkline.dev.demo.report import Report, with_replay
from trunkline.dev.demo.run import Run, Stage
from trunkline.dev.demo.scenario import Scenario, check, find, refused
from trunkline.dev.demo.screen import Story, screen, told
from trunkline.dev.demo.targets import address_of, aim, announced, start_target, targets
from trunkline.dev.demo.worker import alive, as_environment, command, joined, working
from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.running import TargetControl
from trunkline.errors import Unavailable, UsageError
from trunkline.flow.declare import Bus
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.publisher import Publisher
from trunkline.settings import Settings, load

app = typer.Typer(no_args_is_help=True)

COLOURS = {"✓": "bold green", "✗": "bold red"}
REFUSED = 422
FOREVER = 3600
"""Seconds for which nothing looks at the worker, while the bus stays up."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="A sink's name, or a target's.")]


@app.command()
def run(
    ctx: typer.Context,
    scenario: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="The scenario.")],
    events: Annotated[int, typer.Option(min=1, help="How many events of the input the first act posts.")] = 2500,
    rate: Annotated[float, typer.Option(min=0, help="Events a second in the first act; 0: as fast as possible.")] = 60,
    folder: Annotated[Path, typer.Option("--out", help="Where reports, logs and data go; it is emptied first.")] = Path(
        "build/demo"
    ),
) -> None:
    """Run a scenario in two acts and compare what really happened with what should have, hop by hop.

    Act one posts the input. Act two breaks one target for some events, shows their dead letters, heals the target and
    replays. Exits with 1 when any number differs. On a terminal the bus then stays up until Ctrl-C.
    """
    began = time.time() - time.process_time()  # what was loaded until now took that long
    bus, settings = load_bus(), load()
    found = find(scenario)
    check(bus, found)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    balanced = False
    try:
        with ExitStack() as stack:
            try:
                play = Play(ctx, bus, found, stack, settings, folder)
                balanced = play.run(events, rate, began)
            finally:  # what was started is stopped in order, however often somebody asks
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                talk.print("Stopping what the demo started.")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(0 if balanced else 1)


class Play:
    """One performance: everything that is up, and the acts."""

    def __init__(
        self, ctx: typer.Context, bus: Bus, scenario: Scenario, stack: ExitStack, settings: Settings, folder: Path
    ) -> None:
        """Bring everything up."""
        self._bus = bus
        self._scenario = scenario
        self._folder = folder
        fresh(folder)
        with step("broker") as bar:
            settings, cluster = stack.enter_context(place(bus, settings, folder, bar.say))
            bar.note = cluster.bootstrap
        with step("target") as bar:
            target = stack.enter_context(start_target(bus, folder))
            stack.enter_context(announced(bus, settings, target.url))
            bar.note = target.url
        self._control = target.control
        with step("topics") as bar:
            bar.note = f"{create_topics(bus, settings, cluster)} created"
        for name, rows in scenario.rows().items():
            self._fill(name, list(rows), cluster)
        host = settings.gateway.host
        port = free_port(host, settings.gateway.port)
        if settings.gateway.port not in (0, port):
            talk.print(f"Port {settings.gateway.port} is taken: the gateway has {port}.")
        settings = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"port": port})})
        gateway = f"http://{host}:{port}"
        moved = {
            one.url.name: url
            for one in targets(bus).values()
            if (url := address_of(one, target.url)) != one.url.read().rstrip("/")
        }
        if moved:
            talk.print(f"The addresses {', '.join(moved)} cannot be used here: the target has {target.url}.")
        self._environment = {**as_environment(settings), **moved}
        self._environment_file = environment_file(ctx, folder, self._environment)
        log = folder / "worker.log"
        with step("worker") as bar:
            worker = stack.enter_context(working(self._environment, gateway, log))
            joined(bus, cluster)
            bar.note = gateway
        stage = Stage(settings, cluster, gateway, folder / "target.db", worker, log)
        self._stage = stage
        self._run = stack.enter_context(Run(bus, scenario, stage))

    def run(self, events: int, rate: float, began: float) -> bool:
        """Play both acts and show what came of them; say whether everything balanced."""
        first = self._act("act one", events, rate, [])
        at = [effect.at for api in self._run.apis().values() for effect in api.effects]
        first_seconds = min(at) - began if at else None
        self._write("report.json", first, {"first_delivered": first_seconds})
        second = self._replay(events)
        took = time.time() - began
        self._write("report-replay.json", second, {"both_acts": took})
        incident = self._scenario.incident
        many = len(refused(self._scenario, self._bus, events, self._run.posted))
        story = Story(
            incident=f"{incident.sink} refused {many} of {incident.events} more events: {incident.detail}",
            rate=rate,
            first_seconds=first_seconds,
            seconds=took,
            folder=str(self._folder),
            stays=out.is_terminal,
            commands=self._next(),
        )
        shown = told(first, second, story)
        (self._folder / "screen.json").write_text(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
        out.print()
        for line in screen(shown):
            out.print(Text(safe(line), spans=[Span(0, 1, COLOURS[line[:1]])] if line[:1] in COLOURS else []))
        if story.stays:
            talk.print("\nThe bus stays up until Ctrl-C.")
            self._stay()
        return first.balanced and second.balanced

    def _stay(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._stage.worker.wait(FOREVER)
                alive(self._stage.worker, self._stage.gateway, self._stage.log)

    def _fill(self, name: str, rows: Sequence[Any], cluster: Cluster) -> None:
        """Fill a table as an upstream service would."""
        table = next((table for table in self._bus.tables if table.name == name), None)
        if table is None:
            raise UsageError(f"the scenario fills {name}, which is no table of the topology.")
        with step(name) as bar, Publisher(cluster, self._bus, table, service="demo") as publisher:
            for done, _ in enumerate(publisher.rows(rows, datetime.now(UTC)), 1):
                bar.tell(done, len(rows))
            bar.note = f"{len(rows):,} rows"

    def _act(self, name: str, events: int, rate: float, refused: Sequence[tuple[str, ...]]) -> Report:
        """Post events, wait for all that must come of them, and let the witnesses count."""
        with step(f"{name}, posted") as bar:
            unanswered = self._run.post(events, rate, lambda done: bar.tell(done, events))
            again = "".join(f", {count:,} posted again after {error}" for error, count in unanswered.items())
            bar.note = f"{events:,} events{again}"
        with step(f"{name}, delivered") as bar:
            self._run.wait(bar.tell)
            bar.note = f"{bar.done:,} deliveries have an outcome"
        with step(f"{name}, counted") as bar:
            report = self._run.report(refused, bar.tell)
            bar.note = report.verdict
        return report

    def _replay(self, events: int) -> Report:
        """Break, post more, look at the dead letters, heal, replay; with the commands that a person would type."""
        incident = self._scenario.incident
        facts = refused(self._scenario, self._bus, events, events + incident.events)
        broken = ["--match", incident.match, "--status", str(incident.status), "--detail", incident.detail]
        self._type("demo", "break", incident.sink, *broken)
        talk.print()
        dead = self._act("act two", incident.events, 0, facts)
        self._type("dlq", "show", incident.sink, paragraphs=1)
        self._type("demo", "heal", incident.sink)
        before = self._run.apis()
        self._type("dlq", "replay", incident.sink, "--run")
        talk.print()
        with step("act two, counted again") as bar:
            last = self._run.report([], bar.tell)
            report = with_replay(last, dead, incident.sink, len(facts), before, self._run.apis())
            bar.note = report.verdict
        return report

    def _type(self, *arguments: str, paragraphs: int | None = None) -> None:
        """Run a command as a person would, and show what it prints; of long answers the first paragraphs."""
        talk.print(f"\n$ {shlex.join(['trunkline', *arguments])}", style="bold", markup=False)
        done = subprocess.run(  # noqa: S603 - ourselves
            command(*arguments),
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        parts = done.stdout.strip().split("\n\n")
        shown = "\n\n".join(parts[:paragraphs])
        talk.print(shown, markup=False)
        if rest := len(done.stdout.strip().splitlines()) - len(shown.splitlines()):
            talk.print(f"… and {rest} more lines: all of its letter", style="dim")
        if done.returncode:
            talk.print(f"✗ it ended with {done.returncode}", style="red")

    def _write(self, name: str, report: Report, seconds: dict[str, float | None]) -> None:
        """Write a report for programs."""
        rounded = {what: None if count is None else round(count, 2) for what, count in seconds.items()}
        data = {**report.as_data(), "seconds": rounded}
        (self._folder / name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def _next(self) -> list[tuple[str, str]]:
        """Give three commands that lead on, as they are to be typed here."""
        own = [] if not self._environment else ["--env", str(self._environment_file)]
        full = [] if self._environment_file is None else ["--env", str(self._environment_file)]
        sink = self._scenario.incident.sink
        return [
            (shlex.join([program(), *own, "demo", "break", sink]), f"let {sink} refuse everything"),
            (shlex.join([program(), *full, "send", self._scenario.source, "--example"]), "and send one more event"),
            (shlex.join([program(), *own, "dlq", "show", sink]), "see why it is dead, and what to do"),
        ]


class Bar:
    """One step's progress, shown while it takes long."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self.note = ""
        """What the step came to."""
        self.done = 0
        self._shown = shown
        self._task = task

    def tell(self, done: int, total: int) -> None:
        """Note how much is done of how much."""
        self.done = done
        self._shown.update(self._task, completed=done, total=total)

    def say(self, line: str) -> None:
        """Tell a person something."""
        talk.print(line, markup=False)


@contextlib.contextmanager
def step(what: str) -> Iterator[Bar]:
    """Show that something is under way, then what came of it and how long it took."""
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as shown:
        bar = Bar(shown, shown.add_task(what, total=None))
        yield bar
    talk.print(f"{what:<22} {bar.note}  {time.monotonic() - began:.1f} s", markup=False)


def environment_file(ctx: typer.Context, folder: Path, environment: dict[str, str]) -> Path | None:
    """Give the file that commands in another terminal need: the one given, or one that says what differs from it."""
    given: Path | None = ctx.find_root().params["env"]
    if not environment:
        return given
    file = folder / "env"
    text = given.read_text() if given is not None else ""
    ours = "".join(f"{name}={value}\n" for name, value in environment.items())
    file.write_text(f"# What this run of the demo differs in; the first line of a name counts.\n{ours}{text}")
    return file


def program() -> str:
    """Give the name under which a person here calls this program."""
    called = Path(sys.argv[0])
    found = shutil.which("trunkline")
    return "trunkline" if found is not None and Path(found).samefile(called) else os.path.relpath(called)


@app.command("break")
def break_(
    name: Name,
    match: Annotated[
        str, typer.Option(help="Only these requests: a glob on the path below the API, or FIELD=GLOB of the JSON body.")
    ] = "*",
    status: Annotated[int | None, typer.Option(help="Refuse with this status; 422 if nothing else is said.")] = None,
    detail: Annotated[str | None, typer.Option(help="The sentence that it refuses with.")] = None,
    latency: Annotated[float, typer.Option(metavar="MS", help="Answer so much later.")] = 0,
    *,
    hang: Annotated[bool, typer.Option("--hang", help="Hold requests until healed, and answer nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Cut the connection instead of answering.")] = False,
    after_apply: Annotated[
        bool, typer.Option("--after-apply", help="Let the effect happen before it fails, as a lost answer would.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let the target of a sink misbehave from now on, until `demo heal`."""
    address, api = aim(load_bus(), load(), name)
    if status is None and not (hang or reset or latency):
        status = REFUSED
    words: dict[str, Any] = {} if detail is None else {"detail": detail}
    try:
        behaviour = Behaviour(
            name=api,
            match=match,
            status=status,
            hang="forever" if hang else None,
            reset=reset,
            latency_ms=latency,
            after_apply=after_apply,
            **words,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).removesuffix("_ms") if first["loc"] else ""
        why = first["msg"].removeprefix("Value error, ")
        why = "a path begins with / or *, a field is FIELD=GLOB" if option == "match" else why
        raise UsageError(f"--{option}: {why}." if option else f"{why}.") from None
    with reaching(address) as control:
        number = control.break_(behaviour)
    if as_json:
        print_json({"id": number, "api": api, "match": match, "status": status})
        return
    how = [f"refuses with {status}"] if status is not None else []
    how += ["never answers"] if hang else []
    how += ["cuts the connection"] if reset else []
    how += [f"answers {latency:g} ms later"] if latency else []
    which = "every request" if match == "*" else f"requests that match {match}"
    out.print(
        f"{name} is broken: {api} {', '.join(how)}, {which}. Heal it with: trunkline demo heal {name}", markup=False
    )


@app.command()
def heal(
    name: Name, *, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """End everything that is wrong with the target of a sink; requests that it holds are cut."""
    address, api = aim(load_bus(), load(), name)
    with reaching(address) as control:
        ended = control.heal(api)
    if as_json:
        print_json({"api": api, "healed": ended})
    else:
        out.print(f"{name} is healed." if ended else f"Nothing was wrong with {name}.", markup=False)


@contextlib.contextmanager
def reaching(address: str) -> Iterator[TargetControl]:
    """Speak to the target that is up.

    Raises:
        Unavailable: none is there.
    """
    with contextlib.closing(TargetControl(address)) as control:
        try:
            yield control
        except Unavailable as error:
            raise Unavailable(f"{error} It is up while `trunkline demo run` is.") from None
