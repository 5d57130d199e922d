"""The list of commands says what each command says of itself, though it loads none."""

import inspect
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from trunkline.cli import send
from trunkline.cli.main import COMMANDS, app, command_at


@pytest.mark.parametrize("name", [name for name, (_, told) in COMMANDS.items() if told])
def test_the_list_says_of_a_command_what_it_says_itself(name: str) -> None:
    place, told = COMMANDS[name]
    found = command_at(place)
    assert isinstance(found, typer.Typer) or str(inspect.getdoc(found)).splitlines()[0] == told


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
        (["--env", "{folder}/binary", "check"], 2, "trunkline: --env {folder}/binary: it is no text in UTF-8.\n"),
        (["send", "storefront", "--example", "--url", "http://[x"], 1, "trunkline: no gateway at http://[x: "),
    ],
    ids=["a folder", "no text", "no address"],
)
def test_what_cannot_be_read_is_told_in_one_line(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(sys, "argv", ["trunkline", *(one.format(folder=tmp_path) for one in arguments)])
    monkeypatch.setenv("STOREFRONT_SIGNING_SECRET", "whsec_c2VjcmV0")
    with pytest.raises(SystemExit, match=str(code)):
        app()
    assert capsys.readouterr().err.startswith(said.format(folder=tmp_path))


def test_a_full_disk_is_told_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from trunkline.cli.main import app; app()", "schema", "ls"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "trunkline: what it says cannot be written: No space left on device.\n"
    assert (ended.returncode, ended.stderr) == (1, said)


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
