"""`trunkline schema check`: who reads what a proposed version takes away, by file and line, and nobody else."""

import importlib.util
import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.shared import made
from tests.trunkline.integration.hotel import build, git, record, stay, write
from tests.trunkline.integration.project import Done
from tests.trunkline.integration.project import run as trunkline
from trunkline.cli.project import talk
from trunkline.flow.readers import plainly


def run(folder: Path, *arguments: str) -> Done:
    return trunkline(folder, "schema", *arguments)


@pytest.fixture
def hotel(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made(tmp_path_factory, "hotel", build), tmp_path / "hotel"))


def test_nothing_proposed_is_nothing_to_say(hotel: Path) -> None:
    done = run(hotel, "check")
    assert (done.stdout, done.stderr, done.code) == ("ok: nothing proposed\n", "", 0)


def test_what_is_no_type_is_told_by_its_own_file(hotel: Path) -> None:
    write(hotel, "city.v2", record("City", city="string", **{"time zone": "string"}))
    for command in ("check", "types"):
        done = run(hotel, command)
        told = 'trunkline: city.v2.avsc: "time zone" is no name of a field; rename it.\n'
        assert (done.stdout, done.stderr, done.code) == ("", told, 2)


def test_ten_renames_are_named_each_where_it_is_read_and_an_unread_one_is_not(hotel: Path) -> None:
    renamed = ["guest", "country", "street", "phone", "mail", "notes", "agent", "floor", "payer", "state", "unread"]
    write(hotel, "stay.v2", stay({name: f"{name}_2" for name in renamed}))
    city = record("City", city="string", area="string", mayor="string")
    city["fields"][1]["aliases"] = ["zone"]
    write(hotel, "city.v2", city)
    done = run(hotel, "check")
    step, route = "step of hotel.stays.known", "route of hotel.stays.known"
    helper = f"for known, {step}"
    more = "which stay v2 has no more. Read"
    steps = "consumers/steps/stays.py"
    assert done.stdout.splitlines() == [
        f'consumers/sinks/till.py:10  Till.request (sink till) reads "payer", {more} "payer_2" instead.',
        f'{steps}:9  known ({step}) reads "guest", {more} "guest_2" instead.',
        f'{steps}:11  known ({step}) reads "country", {more} "country_2" instead.',
        f'{steps}:14  known ({step}) reads "zone", which city v2 has no more. Read "area" instead.',
        f'{steps}:19  at ({helper}) reads "phone", {more} "phone_2" instead.',
        f'{steps}:21  at ({helper}) reads "guest", {more} "guest_2" instead.',
        f'{steps}:21  at ({helper}) reads "mail", {more} "mail_2" instead.',
        f'{steps}:29  address ({helper}) reads "street", {more} "street_2" instead.',
        f'{steps}:33  loosely ({helper}) reads "notes", {more} "notes_2" instead.',
        f'{steps}:34  loosely ({helper}) reads "agent", {more} "agent_2" instead.',
        f'{steps}:39  bills ({route}) reads "floor" of Room, {more} "floor_2" instead.',
        f'topology.py:14  a condition of hotel.stays.known reads "state", {more} "state_2" instead.',
        "12 faults: city v2, stay v2 proposed",
    ]
    assert done.code == 1


def test_a_field_that_nobody_reads_names_nobody(hotel: Path) -> None:
    write(hotel, "stay.v2", stay({"unread": "more", "size": "area"}))
    write(hotel, "city.v2", record("City", city="string", zone="string"))
    done = run(hotel, "check")
    assert (done.stdout, done.stderr, done.code) == ("ok: city v2, stay v2 proposed\n", "", 0)


def test_who_waits_for_the_type_checker_is_told_what_for(hotel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def status(words: str) -> AbstractContextManager[None]:
        said.append(words)
        return nullcontext()

    monkeypatch.setattr(talk, "status", status)
    write(hotel, "stay.v2", stay({"unread": "unread_2"}))
    run(hotel, "check")
    assert said == ["Looking for what reads or writes what changes"]


def test_a_changed_type_is_named_where_the_field_is_read_and_where_it_is_written(hotel: Path) -> None:
    write(hotel, "stay.v2", stay({}, {"payer": ["null", "string"]}))
    write(hotel, "bill.v2", record("Bill", guest="string", total="double"))
    done = run(hotel, "check")
    assert done.stdout.splitlines() == [
        (
            'consumers/sinks/till.py:10  Till.request (sink till) reads "payer", str in v1 and str | None in stay v2.'
            " Read it as that."
        ),
        (
            'consumers/steps/stays.py:45  bills (route of hotel.stays.known) writes "total", int in v1 and float'
            " in bill v2. Write that."
        ),
        "2 faults: bill v2, stay v2 proposed",
    ]


def test_a_released_version_never_changes_and_who_reads_what_an_edit_takes_away_is_named(hotel: Path) -> None:
    write(hotel, "stay.v1", stay({"payer": "patron"}))
    done = run(hotel, "check")
    assert done.stdout.splitlines() == [
        (
            'consumers/sinks/till.py:10  Till.request (sink till) reads "payer", which stay v1 has no more.'
            ' Read "patron" instead.'
        ),
        (
            "schemas/stay.v1.avsc:1  stay v1 is released and never changes. Put it back (git checkout HEAD --"
            " schemas/stay.v1.avsc), and make the change in stay.v2.avsc."
        ),
        "2 faults: stay v1 proposed",
    ]


def test_code_that_was_moved_to_the_new_version_may_still_read_the_old_one(hotel: Path) -> None:
    write(hotel, "stay.v2", stay({"payer": "patron", "notes": "remarks"}))
    assert run(hotel, "types").code == 0
    for name in ("topology.py", "consumers/sinks/till.py", "consumers/steps/stays.py"):
        path = hotel / name
        path.write_text(path.read_text().replace("StayV1", "StayV2"))
    git(hotel, "add", ".")
    git(hotel, "commit", "-qm", "second")
    done = run(hotel, "check")
    assert done.stdout.splitlines() == [
        (
            'consumers/sinks/till.py:10  Till.request (sink till) reads "payer", which stay v2 has no more.'
            ' Read "patron" instead.'
        ),
        "1 fault: nothing proposed",
    ]


def test_versions_that_cannot_be_read_are_named_in_their_files(hotel: Path) -> None:
    (hotel / "schemas/city.v2.avsc").write_text(
        json.dumps(record("City", city="string", zone="string", mayor="string", river="string"), indent=2)
    )
    backward = run(hotel, "check")
    assert backward.stdout.splitlines()[:1] == [
        (
            "schemas/city.v2.avsc:18  v2 could not read events of v1: river is new and has no default."
            " Give it a default, or write v1_to_v2 in schemas/city.py."
        )
    ]
    assert run(hotel, "check", "--mode", "FORWARD").code == 0
    (hotel / "schemas/city.py").write_text("def v1_to_v2(old): return {**old, 'river': 'x'}\n")
    assert run(hotel, "check").code == 0
    wrong = run(hotel, "check", "--mode", "SIDEWARDS")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "--mode SIDEWARDS is none of BACKWARD" in wrong.stderr


def test_json_and_what_is_missing(hotel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(hotel / ".git")
    write(hotel, "stay.v2", stay({"payer": "patron", "notes": "remarks"}))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "mypy" else find(name, *more))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(hotel.parent))
    done = run(hotel, "check", "--json")
    said = json.loads(done.stdout)
    assert said["proposed"] == ["stay v2"]
    assert [fault["where"] for fault in said["faults"]] == ["consumers/steps/stays.py:33"]
    assert [note.partition(":")[0] for note in said["notes"]] == [
        "no git revision to compare with",
        "mypy is not installed, so only what the examples reach was looked at",
    ]
    assert done.code == 1
    asked = run(hotel, "check", "--against", "main")
    assert (asked.code, asked.stderr.startswith("trunkline: --against compares with a git revision")) == (2, True)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("x.get('a')", 'x["a"]'),
        ("x.get('b')", "x.get('b')"),
        ("x.get(\n'a', 1)\ny", 'x["a"\n]\ny'),
        ("'a' in x", '(x)["a"]'),
        ("'a' not in f(x, 1)", '(f(x, 1))["a"]'),
        ("ü.get('a', {}).get('a')", 'ü["a"]["a"]'),
        ("match x:\n case {'a': b, 'c': _}: pass", "match (x, x[\"a\"])[0]:\n case {'a': b, 'c': _}: pass"),
        ("def", "def"),
    ],
)
def test_what_a_type_checker_lets_pass_is_shown_to_it_as_plain_reads(text: str, plain: str) -> None:
    assert plainly(text, ["a"]) == plain
