"""The list of commands says what each command says of itself, though it loads none."""

import inspect
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from topology import bus
from trunkline.cli import loading, send, show, sink
from trunkline.cli.main import COMMANDS, app, command_at, loaded
from trunkline.cli.project import print_json
from trunkline.cli.run import moment
from trunkline.cli.sink import hint
from trunkline.cli.target import state_of
from trunkline.errors import UsageError
from trunkline.flow.declare import Publish
from trunkline.flow.walk import EXAMPLES, example
from trunkline.kafka.orders import Announcement, Orders, Worker
from trunkline.operate.browse import flow_of
from trunkline.operate.targets import standings, troubled
from trunkline.operate.trace import Delivery, Node, Stands, Step, Trace


@pytest.mark.parametrize("name", [name for name, (_, told) in COMMANDS.items() if told])
def test_the_list_says_of_a_command_what_it_says_itself(name: str) -> None:
    place, told = COMMANDS[name]
    found = command_at(place)
    assert isinstance(found, typer.Typer) or str(inspect.getdoc(found)).splitlines()[0] == told


def test_every_command_writes_what_is_to_be_given_in_capitals_and_an_event_in_one_way() -> None:
    def arguments(command: Any) -> Iterator[str]:
        for below in getattr(command, "commands", {}).values():
            yield from arguments(below)
        yield from (one.metavar or one.name for one in command.params if one.param_type_name == "argument")

    for name, (_, told) in COMMANDS.items():
        if told:
            for metavar in arguments(loaded(name)):
                assert metavar == metavar.upper(), f"trunkline {name} {metavar}"
                assert "EVENT_" not in metavar


def test_what_a_command_complains_of_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trunkline", "walk", "\x1b[2Jstore\nfront\u202e"])
    with pytest.raises(SystemExit, match="2"):
        app()
    assert "there is no source �[2Jstore�front�. The sources are: storefront, carrier.\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["send", "storefront", "--file", "{folder}"], 2, "trunkline: --file {folder}: Is a directory.\n"),
        (
            ["target", "pause", "warehouse"],
            2,
            "trunkline: there is no target warehouse. It is a sink, which calls stock. The targets are: stock, mail",
        ),
        (
            ["--env", "{folder}/quoted", "check"],
            2,
            "trunkline: {folder}/quoted:2: the quotes would be part of KEY. Leave",
        ),
        (["--env", "{folder}/binary", "check"], 2, "trunkline: --env {folder}/binary: it is no text in UTF-8.\n"),
        (
            ["send", "storefront", "--file", "{folder}/empty.json"],
            2,
            "trunkline: {folder}/empty.json would be refused: Wrong or missing: basket_id, household_id, store_id,",
        ),
        (["send", "storefront", "--example", "--url", "http://[x"], 1, "trunkline: no gateway at http://[x: "),
    ],
    ids=["a folder", "a sink", "quotes", "no text", "another shape", "no address"],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "quoted").write_text("# the CRM's\nKEY='abc'\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(sys, "argv", ["trunkline", *(one.format(folder=tmp_path) for one in arguments)])
    monkeypatch.setenv("STOREFRONT_SIGNING_SECRET", "whsec_c2VjcmV0")
    with pytest.raises(SystemExit, match=str(code)):
        app()
    told = capsys.readouterr().err
    assert told.startswith(said.format(folder=tmp_path))
    assert "\N{REPLACEMENT CHARACTER}" not in told


BUG = """
from trunkline.cli import declared, main
from trunkline.redact import keep_secret
def show():
    keep_secret("hush-hush-1")
    raise RuntimeError("no way to https://me:hush-hush@there under hush-hush-1")
declared.show = show
main.app()
"""


def test_a_bug_of_a_command_is_told_without_secrets() -> None:
    ended = subprocess.run([sys.executable, "-c", BUG, "show"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback (most recent call last):")
    assert ended.stderr.endswith("RuntimeError: no way to https://[secret]@there under [secret]\n")


def test_a_full_disk_is_told_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from trunkline.cli.main import app; app()", "schema", "ls"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "trunkline: what it says cannot be written: No space left on device.\n"
    assert (ended.returncode, ended.stderr) == (1, said)


def test_json_is_printed_item_by_item_and_looks_as_if_it_were_printed_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = [{"a": ["x\n", {}], "é": None}, 1, []]
    for whole in (items, [], {"n": 1, "items": items, "none": [], "more": {"b": 2}}, {}, "text"):
        streamed: Any = whole
        if isinstance(whole, dict):
            streamed = {name: iter(part) if isinstance(part, list) else part for name, part in whole.items()}
        elif isinstance(whole, list):
            streamed = iter(whole)
        print_json(streamed)
        assert capsys.readouterr().out == json.dumps(whole, indent=2, ensure_ascii=False) + "\n"

    def first() -> Iterator[int]:
        yield 1
        assert capsys.readouterr().out == "[\n  1", "before the next one is made"

    print_json(first())


def test_a_terminal_of_another_charset_is_written_to(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from trunkline.cli.main import app; app()"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([*command, "show"], capture_output=True, env=environment, check=True).stdout
    assert shown.startswith(b"shop\n+-- storefront")
    assert b"warehouse  ? stock at" in shown
    (tmp_path / "caf\u00e9.json").write_bytes((EXAMPLES / "storefront" / "milk_and_coupon.json").read_bytes())
    walked = [*command, "walk", "storefront", str(tmp_path / "caf\u00e9.json"), "--json"]
    answer = subprocess.run(walked, capture_output=True, env=environment, check=True).stdout
    assert "storefront/caf\u00e9.json" in json.dumps(json.loads(answer), ensure_ascii=False)


def test_a_sender_is_told_when_its_answer_is_late(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(send, "PATIENCE", 0.2)
    monkeypatch.setenv("STOREFRONT_SIGNING_SECRET", "whsec_c2VjcmV0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(sys, "argv", ["trunkline", "send", "storefront", "--example", "--url", url])
        with pytest.raises(SystemExit, match="1"):
            app()
    said = f"trunkline: the gateway at {url} has not answered for 0.2 s, and it may have published it. Send it again"
    assert capsys.readouterr().err.startswith(said)


def test_what_answers_and_is_no_gateway_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STOREFRONT_SIGNING_SECRET", "whsec_c2VjcmV0")
    with answering(b'{"accepted": true}') as url:
        monkeypatch.setattr(sys, "argv", ["trunkline", "send", "storefront", "--example", "--url", url])
        with pytest.raises(SystemExit, match="1"):
            app()
    assert capsys.readouterr().err == f"trunkline: what answered 200 at {url} is no gateway of Trunkline.\n"


def test_the_gateway_of_this_machine_is_posted_to_past_any_proxy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STOREFRONT_SIGNING_SECRET", "whsec_c2VjcmV0")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    event = {"id": "e-1", "outcome": "duplicate", "topic": "", "partition": None, "offset": None}
    with answering(json.dumps({"events": [event]}).encode()) as url:
        monkeypatch.setenv("TRUNKLINE_GATEWAY__PORT", url.rpartition(":")[2])
        monkeypatch.setattr(sys, "argv", ["trunkline", "send", "storefront", "--example"])
        with pytest.raises(SystemExit, match="0"):
            app()
    assert capsys.readouterr().out == "e-1  duplicate, as it was before\n"


def test_what_workers_say_of_a_target_is_told_as_they_say_it() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    worker = Worker("w", "host", 7, ("shop.stock-movements.warehouse",), "t")
    held = Orders(workers={"w": Announcement(worker, 0, {}, (), now, targets={"stock": "asking us to wait"})})
    [stock, _] = standings(bus, held, now)
    assert state_of(stock) == "asking us to wait at 1 of 1 worker"
    [words] = troubled([stock])["shop.stock-movements.warehouse"]
    assert words == "stock is asking us to wait at 1 of 1 worker"


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Answer every post with this body."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("width", [20, 60, 80, 400])
def test_no_terminal_is_too_narrow_for_an_id(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Console(force_terminal=True, width=width, soft_wrap=True, no_color=True, highlight=False)
    monkeypatch.setattr(show, "out", terminal)
    row = ["2026-01-01T00:00:00.000Z", "t7tte2t4vuia2hlinl75mrrs6qbcn535", "\u65e5" * 9, "refused " * 40 + "\x1b[2J"]
    show.print_table(("failed at", "event", "key", "reason"), [row, row])
    told = capsys.readouterr().out
    for cell in row[:3]:
        assert told.count(cell) == 2
    assert told.count("failed at") == (1 if width == 400 else 2)
    assert "\x1b[2J" not in told


def test_skipping_an_event_by_its_sources_id_names_what_came_of_it() -> None:
    def made(name: str, stands: Stands) -> Node:
        return Node("shop/steps", name, "moves", deliveries=(Delivery("moves.store", "store", stands),))

    def told(*below: Node) -> str | None:
        step = Step("sales.steps", "process", "done", made=below)
        return hint([Trace((), Node("shop/desk", "sale", "sales", steps=(step,)))], ["moves.store"], "store", "sale")

    nothing = "no event sale has come to store so far; should one come, it is skipped. "
    assert told() == f"{nothing}Is the id right?"
    assert told(made("a", "delivered")) == f"{nothing}What came of it there, a, is delivered already."
    waits = f"{nothing}What came of it and waits there is b"
    assert told(made("a", "delivered"), made("b", "being retried")) == f"{waits}: trunkline sink skip store b"
    assert told(made("b", "being retried"), made("c", "waiting")) == f"{waits}, one of 2: trunkline sink skip store b"


def test_what_is_known_of_an_event_is_asked_before_it_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[str] = []
    monkeypatch.setattr(sink, "give", lambda *_, **__: given.append("skip"))
    monkeypatch.setattr(sink, "told_of", lambda *_: "event e1 is dead already." if given else None)
    sink.skip("warehouse", "e1")
    assert given == ["skip"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("event", ["-5", "--run", "it's here", "#7", ""])
def test_a_command_that_is_printed_is_understood_as_it_is_meant(event: str) -> None:
    printed: list[tuple[str, dict[str, Any]]] = [
        (show.typed("dlq", "show", "crm", ids=[event]), {"sink": "crm", "event": event}),
        (show.typed("sink", "skip", "crm", ids=[event]), {"sink": "crm", "event": event}),
        (
            show.typed("dlq", "discard", "crm", ids=["a", event], options=["--key", "-k", "--run"]),
            {"sink": "crm", "event": ["a", event], "key": ["-k"], "run": True},
        ),
    ]
    for line, meant in printed:
        _, group, name, *arguments = shlex.split(line)
        read = loaded(group).commands[name].make_context(name, arguments).params
        assert meant.items() <= read.items(), line


@pytest.mark.parametrize("command", [["dlq", "show"], ["dlq", "ls"], ["walk"]], ids=" ".join)
def test_what_may_be_left_out_is_in_one_pair_of_brackets(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trunkline", *command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        app()
    assert "[[" not in capsys.readouterr().out


def test_a_folder_below_the_project_is_told_where_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "topology.py").touch()
    (below := tmp_path / "consumers").mkdir()
    monkeypatch.chdir(below)
    monkeypatch.setattr(sys, "argv", ["trunkline", "check"])
    with pytest.raises(SystemExit):
        app()
    said = f"trunkline: there is no topology.py here. Change to the project's folder, {tmp_path}.\n"
    assert capsys.readouterr().err == said


def test_the_end_of_a_flows_name_names_it() -> None:
    with pytest.raises(UsageError, match=r"no flow warehouse\. Did you mean shop\.stock-movements\.warehouse\?$"):
        bus.chosen(["warehouse"])
    with pytest.raises(UsageError, match=r"flow unshipped\. Did you mean shop\.sales\.unshipped\?$"):
        flow_of(bus, "unshipped")


def test_a_type_that_is_not_written_yet_is_told_with_what_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schemas").mkdir()
    said = loading.told(ImportError("cannot import name 'OrderPlacedV1' from 'schemas'", name="schemas"))
    assert said.endswith("'OrderPlacedV1' from 'schemas'. The types are written by `trunkline schema types`.")
    assert loading.told(ImportError("cannot import name 'x' from 'other'", name="other")).endswith("from 'other'")


def test_a_paragraph_of_help_is_broken_by_the_terminal_alone() -> None:
    def below(command: Any) -> Iterator[Any]:
        yield command
        for one in getattr(command, "commands", {}).values():
            yield from below(one)

    for name in COMMANDS:
        for command in below(loaded(name)):
            assert all("\n" not in one for one in command.help.split("\n\n")), command.name
    assert "goes with it. A run exits with 0" in loaded("dlq").commands["replay"].help


def test_a_source_without_examples_is_told_where_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [source] = [flow.source for flow in bus.flows if isinstance(flow, Publish) and flow.source.name == "carrier"]
    with pytest.raises(
        UsageError, match=r"producers/examples/carrier; put a request there as it arrives, <name>\.json"
    ):
        example(source)


@pytest.mark.parametrize("given", ["2026-01-31", "2026-01-31T08", "20260131", "2026-01-31 08:00"])
def test_a_time_without_an_offset_is_told_with_one_that_is_taken(given: str) -> None:
    with pytest.raises(UsageError, match="add the time's offset") as refused:
        moment(given)
    assert moment(str(refused.value).rpartition(" ")[2].rstrip(".")) == datetime.fromisoformat(given).replace(
        tzinfo=UTC
    )
