"""`trunkline walk --diff REV`: each change to an integration is told by its effects, and nothing else is."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.trunkline.walk.desk import TOPOLOGY, change, commit, git, project, types
from trunkline.cli import told
from trunkline.cli.loading import load_unchecked
from trunkline.cli.revision import Beside, checked_out
from trunkline.cli.walk import former
from trunkline.errors import UsageError
from trunkline.flow.differences import Change, Difference, compare, tree_changes
from trunkline.flow.inputs import examples, walked
from trunkline.flow.journeys import Data

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = project(tmp_path / "desk")
    monkeypatch.chdir(folder)
    return folder


def loaded(folder: Path, job: Data) -> Data:
    """Walk a version in this process: as `Beside` does, at a fraction of the cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        importlib.invalidate_caches()
        kept: dict[str, ModuleType] = {
            name: sys.modules.pop(name) for name in ("topology", "schemas") if name in sys.modules
        }
        found = walked(load_unchecked(), job)
        for name in ("topology", "schemas"):
            sys.modules.pop(name, None)
        sys.modules.update(kept)
    told: Data = json.loads(json.dumps(found))
    return told


def difference(name: str = "HEAD", *, beside: bool = False) -> tuple[Difference, str]:
    """Compare the working tree with a revision; give what differs, and how it is told.

    With `beside` each version runs in a process of its own, as it does for a person.
    """
    job = {"inputs": examples(["desk"]), "tables": {}}
    with checked_out(name) as revision:
        notes = former(job, revision.folder, name, "")
        if beside:
            with Beside(revision.folder, job) as before, Beside(Path.cwd(), job) as after:
                old, new = before.result(name), after.result("the working tree")
        else:
            old, new = loaded(revision.folder, job), loaded(Path.cwd(), job)
    found = compare(old, new, new)
    found.notes.extend(notes)
    lines = told.differences(found, told.Hiding(old, new), revision, every=False)
    return found, "".join(f"{line.plain}\n" for line in lines)


def golden(name: str, text: str) -> None:
    """Compare with what is written down; GOLDEN=write in the environment writes it anew."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_what_is_no_number_is_the_same_as_itself_and_one_is_not_one_point_nought() -> None:
    nan = float("nan")
    assert list(tree_changes("body", "", {"a": nan, "b": [nan]}, {"a": float("nan"), "b": [nan]})) == []
    assert list(tree_changes("body", "", {"a": 1}, {"a": 1.0})) == [Change("body", "/a", 1, 1.0)]


def test_identical_trees_differ_in_nothing(desk: Path) -> None:
    found, text = difference()
    assert not found
    golden("identical", text)
    assert git(desk, "status", "--porcelain", "--ignored") == ""


ARCHIVE = """class Archive(HttpSink):
    name = "archive"

    def request(self, event):
        return Request.post("/archive", json=event.data)


class Pager(HttpSink)"""
JUDGING = """    name = "crm"

    def verdict(self, response):
        return Delivered(409) if response.status == 409 else super().verdict(response)
"""
SENT = 'json={"ticket": event.data["number"], "message": event.data["text"]}'
CASES: dict[str, list[tuple[str, str]]] = {
    "renamed_field": [('"message": event.data', '"summary": event.data')],
    "changed_path": [('"/customers/{id}/tickets/{number}"', '"/v2/tickets/{number}"')],
    "new_route": [
        ('    if ticket.data["urgency"] > 3:\n', ""),
        ('        yield {"number"', '    yield {"number"'),
        ("class Pager(HttpSink)", ARCHIVE),
        ("        Deliver(tickets,", "        Deliver(paged, to=Archive(crm)),\n        Deliver(tickets,"),
    ],
    "removed_sink": [("        Deliver(tickets, to=Crm(crm)),\n", "")],
    "step_raises": [("    return ticket\n\n\n", '    ticket.data["priority"]\n    return ticket\n\n\n')],
    "unrouted": [('["urgency"] > 3', '["urgency"] > 5')],
    "other_event_id": [('Event(ticket["number"],', 'Event("desk-" + ticket["number"],')],
    "renamed_sink": [('name = "pager"\n\n    def', 'name = "beeper"\n\n    def')],
    "renamed_bus": [('    "desk",\n', '    "help",\n')],
    "other_answers": [('    name = "crm"\n', JUDGING), ("Bus, Deliver, Drop", "Bus, Deliver, Delivered, Drop")],
    "other_credentials": [('Secret("PAGER_KEY"))', 'Secret("PAGER_KEY"), header="X-Pager")')],
    "no_key": [('    name = "crm"\n', '    name = "crm"\n    idempotency = None\n')],
    "list_grows": [('event.data["text"].split()', '["seen", *event.data["text"].split()]')],
    "other_patience": [
        ("to=Crm(crm))", 'to=Crm(crm), retry=Retry(give_up_after=timedelta(hours=1)), after_dead="park_key")'),
        ("import UTC, datetime", "import UTC, datetime, timedelta"),
        ("Publish, Secret", "Publish, Retry, Secret"),
    ],
    "written_sink": [("    def request(self, event: Event[TicketV1])", "    async def deliver(self, event, call)")],
    "other_bytes": [(SENT, 'json={"message": event.data["text"], "ticket": event.data["number"]}')],
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_told_by_its_effects(desk: Path, name: str) -> None:
    change(desk, *CASES[name])
    found, text = difference()
    assert found
    golden(name, text)


def test_a_field_that_is_sensitive_is_hidden_wherever_it_stands(desk: Path) -> None:
    change(desk, ('"message": event.data["text"]', '"message": event.data["text"].upper() + "!"'))
    _, text = difference()
    assert "~ body /message" in text
    assert "burns" not in text.lower()


def test_examples_that_come_go_and_change_are_walked_by_both_versions(desk: Path) -> None:
    folder = desk / "producers/examples/desk"
    (folder / "spam.json").unlink()
    (folder / "calm.json").write_text((folder / "calm.json").read_text().replace("ink", "paper"))
    (folder / "new.json").write_text("[]")
    found, text = difference()
    assert not found
    golden("examples", text)


def test_a_renamed_field_of_a_schema_is_told(desk: Path) -> None:
    path = desk / "schemas/page.v1.avsc"
    path.write_text(path.read_text().replace('"name": "text"', '"name": "words"'))
    types(desk)
    change(
        desk,
        ('"text": ticket.data["text"]}', '"words": ticket.data["text"]}'),
        ('event.data["text"]})', 'event.data["words"]})'),
    )
    found, text = difference()
    assert [(change.at, change.part) for pair in found.records for change in pair.changes] == [
        ("/text", "event"),
        ("/words", "event"),
    ]
    assert not found.requests
    assert "burns" not in text


def test_the_modules_of_a_revision_are_its_own(desk: Path) -> None:
    """What only the working tree has is not imported by the revision, nor the other way round."""
    (desk / "helping.py").write_text("WORD = 'old'\n")
    change(
        desk,
        ('"message": event.data["text"]', '"message": WORD'),
        ("from datetime", "from helping import WORD\nfrom datetime"),
    )
    commit(desk, "Second")
    (desk / "helping.py").write_text("WORD = 'new'\n")
    found, _ = difference(beside=True)
    assert [(one.old, one.new) for pair in found.requests for one in pair.changes] == [("old", "new")]
    (desk / "helping.py").unlink()
    (desk / "topology.py").write_text(TOPOLOGY)
    assert difference(beside=True)[0]


def test_a_revision_takes_nothing_from_the_working_tree(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the working tree is where Python looks for modules, as with an editable install."""
    change(desk, ("from datetime", "import helping\nfrom datetime"))
    commit(desk, "Forgets a file")
    (desk / "helping.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(desk))
    with pytest.raises(UsageError, match=r"HEAD cannot be walked: .*No module named 'helping'"):
        difference(beside=True)


def test_a_project_may_be_a_folder_of_its_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path / "all" / "desk")
    (folder / ".git").rename(tmp_path / "all" / ".git")
    commit(tmp_path / "all", "Moved")
    monkeypatch.chdir(folder)
    assert not difference()[0]
    change(folder, *CASES["changed_path"])
    assert len(difference()[0].requests) == 3


def test_what_is_no_revision_is_wrong_use(desk: Path) -> None:
    for name in ("nothing", "--help", "HEAD:topology.py"):
        with pytest.raises(UsageError, match="there is no revision"), checked_out(name):
            pass
    change(desk, ("bus = Bus(", "bus = Buss("))
    commit(desk, "Broken")
    with pytest.raises(UsageError, match=r"HEAD cannot be walked: topology.py .*topology.py:[0-9]+: NameError"):
        difference(beside=True)


def test_a_project_without_a_repository_is_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not a git repository"), checked_out("HEAD"):
        pass


def test_the_exit_code_says_whether_anything_differs(desk: Path) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).with_name("trunkline")), "walk", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=desk)

    same = run("--diff", "HEAD")
    assert (same.returncode, same.stdout.splitlines()[-1]) == (
        0,
        "nothing changes: 4 requests of 3 inputs are the same",
    )
    change(desk, ('"/pages"', 'f"/pages?at={datetime.now(UTC).timestamp()}"'))
    differs = run("--diff", "HEAD", "desk", "burning.json", "--json")
    told = json.loads(differs.stdout)
    assert (differs.returncode, told["differs"], len(told["requests"])) == (1, True, 1)
    assert told["requests"][0]["changes"][0]["part"] == "path"
    assert "pager says another thing each time: it is not pure, and a retry would not repeat it" in told["not_compared"]
