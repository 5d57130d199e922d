"""The target as what it is: a server in its own process, called over TCP, counted in its file."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.trunkline.dev.conftest import REQUIRED, rows
from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.records import Stats
from trunkline.dev.target.running import RunningTarget, TargetControl, start
from trunkline.errors import Unavailable


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


def test_nobody_on_the_machine_reads_a_required_key_from_the_command_line(target: RunningTarget) -> None:
    told = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(target.pid)], capture_output=True, text=True, check=True
    )
    assert "trunkline.dev.target" in told.stdout
    assert "let:me:in" not in told.stdout


def send(target: RunningTarget, name: str, idempotency_key: str) -> socket.socket:
    """Send one POST and leave its answer unread."""
    host, port = urlsplit(target.url).hostname, urlsplit(target.url).port
    assert host is not None
    assert port is not None
    connection = socket.create_connection((host, port), timeout=30)
    connection.sendall(
        f"POST /{name}/things HTTP/1.1\r\nHost: {host}\r\nIdempotency-Key: {idempotency_key}\r\n"
        "Content-Length: 2\r\n\r\n{}".encode()
    )
    return connection


def test_a_key_takes_effect_once(api: httpx.Client, control: TargetControl, database: Path, name: str) -> None:
    first = api.post("/things/7", json={"delta": -2}, headers=key("k1"))
    again = api.post("/things/7", json={"delta": -2}, headers=key('"k1"'))
    other = api.post("/things/8", json={"delta": 3}, headers=key("k2"))

    assert [answer.status_code for answer in (first, again, other)] == [200, 200, 200]
    assert first.json() == {"applied": True, "key": "k1"}
    assert again.json() == {"applied": False, "key": "k1"}
    assert other.json() == {"applied": True, "key": "k2"}
    assert rows(
        database,
        "SELECT key, method, path, body ->> 'delta', times, repeats FROM effects WHERE name = ? ORDER BY first_seq",
        name,
    ) == [("k1", "POST", "/things/7", -2, 1, 1), ("k2", "POST", "/things/8", 3, 1, 0)]
    assert rows(database, "SELECT key, status FROM attempts WHERE name = ? ORDER BY seq", name) == [
        ("k1", 200),
        ("k1", 200),
        ("k2", 200),
    ]
    assert control.stats()[name] == Stats(
        attempts=3, effects=2, duplicates=0, repeats=1, in_flight=0, max_in_flight=1, statuses={"200": 3}
    )


def test_an_effect_points_to_the_attempt_that_made_it(api: httpx.Client, database: Path, name: str) -> None:
    for _ in range(2):
        api.post("/", headers=key("k"))

    assert rows(
        database,
        "SELECT first_seq = (SELECT min(seq) FROM attempts a WHERE a.name = e.name) FROM effects e WHERE name = ?",
        name,
    ) == [(1,)]


def test_a_key_with_another_body_is_refused(api: httpx.Client, control: TargetControl, name: str) -> None:
    api.post("/things", json={"delta": 1}, headers=key("k"))
    reused = api.post("/things", json={"delta": 2}, headers=key("k"))

    assert reused.status_code == 422
    assert reused.headers["content-type"] == "application/problem+json"
    assert reused.json()["title"] == "Idempotency-Key is already used"
    stats = control.stats()[name]
    assert (stats.effects, stats.duplicates, stats.repeats) == (1, 0, 0)


def test_without_a_header_method_and_path_are_the_key_of_put_and_delete(
    api: httpx.Client, database: Path, name: str
) -> None:
    applied = [api.request(method, "/a%2Fb").json()["applied"] for method in ("PUT", "PUT", "DELETE", "POST", "POST")]

    assert applied == [True, False, True, True, True]
    assert rows(database, "SELECT key, repeats FROM effects WHERE name = ? ORDER BY first_seq", name) == [
        ("PUT /a%2Fb", 1),
        ("DELETE /a%2Fb", 0),
        (None, 0),
        (None, 0),
    ]


def test_an_api_that_ignores_keys_makes_duplicates(
    api: httpx.Client, control: TargetControl, database: Path, name: str
) -> None:
    control.break_(Behaviour(name, honour_keys=False))
    assert [api.post("/", headers=key("k")).json()["applied"] for _ in range(3)] == [True, True, True]
    control.heal(name)
    assert api.post("/", headers=key("k")).json()["applied"] is False

    assert rows(database, "SELECT times, repeats FROM effects WHERE name = ?", name) == [(3, 1)]
    assert control.stats()[name].duplicates == 1


def test_a_body_that_is_no_text_is_kept_as_bytes(api: httpx.Client, database: Path, name: str) -> None:
    api.post("/", content=b"\xff\x00")

    assert rows(database, "SELECT body FROM effects WHERE name = ?", name) == [(b"\xff\x00",)]


def test_a_broken_api_refuses_until_it_is_healed(api: httpx.Client, control: TargetControl, name: str) -> None:
    control.break_(Behaviour(name, match="/things/7/*", status=503, detail="Closed for stocktaking.", retry_after=2))

    refused = api.put("/things/7/parts/1")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Closed for stocktaking.",
    }
    assert api.put("/things/8/parts/1").json()["applied"] is True
    assert control.stats()[name].effects == 1

    assert control.heal(name) == 1
    assert api.put("/things/7/parts/1").json()["applied"] is True
    assert control.stats()[name].statuses == {"200": 2, "503": 1}


def test_a_refusal_may_have_a_body_of_its_own(api: httpx.Client, control: TargetControl, name: str) -> None:
    control.break_(Behaviour(name, match="colour=red", status=409, body={"code": "E7"}))
    control.break_(Behaviour(name, match="colour=blue", status=299, body="no blue today"))

    red = api.post("/", json={"colour": "red"})
    blue = api.post("/", json={"colour": "blue"})
    assert (red.status_code, red.json()) == (409, {"code": "E7"})
    assert (blue.status_code, blue.text) == (299, "no blue today")
    assert api.post("/", json={"colour": "green"}).json()["applied"] is True


def test_a_refusal_after_the_effect_does_not_undo_it(api: httpx.Client, control: TargetControl, name: str) -> None:
    control.break_(Behaviour(name, status=500, after_apply=True))
    assert api.post("/", headers=key("k")).status_code == 500
    control.heal(name)

    assert api.post("/", headers=key("k")).json()["applied"] is False
    assert control.stats()[name].effects == 1


def test_latencies_of_all_that_match_add_up_and_the_effect_is_applied(
    api: httpx.Client, control: TargetControl, name: str
) -> None:
    control.break_(Behaviour(name, latency_ms=30))
    control.break_(Behaviour(name, latency_ms=40))

    answered = api.post("/")
    assert answered.elapsed.total_seconds() > 0.05, "more than each alone"
    assert answered.json()["applied"] is True


def test_a_rate_strikes_the_same_requests_in_every_run(tmp_path: Path) -> None:
    with (
        start(tmp_path / "target.db") as target,
        httpx.Client(base_url=target.url, timeout=30, trust_env=False) as client,
    ):
        runs = []
        for _ in range(2):
            target.control.reset()
            target.control.break_(Behaviour("api", status=503, rate=0.5))
            runs.append([client.post("/api/things").status_code for _ in range(40)])

    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 503}


def test_a_request_that_hangs_is_cut_by_healing_and_had_no_effect(
    target: RunningTarget, control: TargetControl, database: Path, name: str
) -> None:
    control.break_(Behaviour(name, hang="forever"))
    with send(target, name, "k") as connection:
        until(lambda: control.stats().get(name, Stats()).in_flight == 1)
        control.heal(name)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)

    until(lambda: control.stats()[name].in_flight == 0)
    assert control.stats()[name] == Stats(attempts=1, max_in_flight=1, statuses={"none": 1})
    assert rows(database, "SELECT count(*) FROM effects WHERE name = ?", name) == [(0,)]


def test_a_client_that_leaves_is_not_held_any_longer(
    api: httpx.Client, control: TargetControl, database: Path, name: str
) -> None:
    control.break_(Behaviour(name, hang="forever", after_apply=True))
    with pytest.raises(httpx.ReadTimeout):
        api.post("/", headers=key("k"), timeout=httpx.Timeout(30, read=1))

    until(lambda: control.stats()[name].in_flight == 0)
    assert rows(database, "SELECT status FROM attempts WHERE name = ?", name) == [(None,)]
    assert control.stats()[name].effects == 1


def test_a_request_that_hangs_for_a_while_is_answered_then(
    api: httpx.Client, control: TargetControl, name: str
) -> None:
    control.break_(Behaviour(name, hang=0.05))

    assert api.post("/", headers=key("k")).json()["applied"] is True


@pytest.mark.parametrize("after_apply", [False, True])
def test_after_a_reset_the_same_key_takes_effect_once(
    target: RunningTarget,
    control: TargetControl,
    api: httpx.Client,
    database: Path,
    name: str,
    after_apply: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    control.break_(Behaviour(name, reset=True, after_apply=after_apply))
    with send(target, name, "k") as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert rows(database, "SELECT count(*) FROM effects WHERE name = ?", name) == [(int(after_apply),)]
    control.heal(name)

    retried = api.post("/things", content=b"{}", headers=key("k"))
    assert retried.json()["applied"] is not after_apply
    assert rows(database, "SELECT times, repeats FROM effects WHERE name = ?", name) == [(1, int(after_apply))]
    assert control.stats()[name].statuses == {"200": 1, "none": 1}


def test_an_api_that_asks_for_a_key_answers_401_without_it(
    target: RunningTarget, control: TargetControl, database: Path
) -> None:
    with httpx.Client(base_url=target.url, timeout=30, trust_env=False) as client:
        without = client.put("/guarded/things/7")
        wrong = client.put("/guarded/things/7", headers={REQUIRED: "let"})
        assert (without.status_code, wrong.status_code) == (401, 401)
        assert without.headers["content-type"] == "application/problem+json"
        assert "let:me:in" not in without.text + wrong.text
        assert rows(database, "SELECT count(*) FROM effects WHERE name = 'guarded'") == [(0,)]
        assert client.put("/guarded/things/7", headers={REQUIRED: "let:me:in"}).json()["applied"] is True
    assert control.stats()["guarded"].statuses == {"200": 1, "401": 2}


def test_64_requests_in_flight_with_one_key_are_one_effect(
    target: RunningTarget, control: TargetControl, database: Path, name: str
) -> None:
    control.break_(Behaviour(name, hang="forever", after_apply=True))
    with ExitStack() as stack:
        connections = [stack.enter_context(send(target, name, "k")) for _ in range(64)]
        until(lambda: control.stats().get(name, Stats()).in_flight == 64)
        control.heal(name)
        for connection in connections:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)

    until(lambda: control.stats()[name].in_flight == 0)
    assert control.stats()[name] == Stats(attempts=64, effects=1, repeats=63, max_in_flight=64, statuses={"none": 64})
    assert rows(database, "SELECT in_flight_at_arrival FROM attempts WHERE name = ? ORDER BY seq", name) == [
        (others,) for others in range(64)
    ]


def test_64_clients_at_once_lose_and_double_nothing(target: RunningTarget, control: TargetControl, name: str) -> None:
    address = urlsplit(target.url)

    def call(client: int) -> list[bool]:
        with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)) as connection:
            applied = []
            for number in range(10):
                # Every effect is asked for by two clients.
                headers = key(f"{client // 2}-{number}")
                connection.request("POST", f"/{name}/things", body=b"{}", headers=headers)
                applied.append(json.loads(connection.getresponse().read())["applied"])
            return applied

    with ThreadPoolExecutor(64) as pool:
        answers = [applied for client in pool.map(call, range(64)) for applied in client]

    assert (answers.count(True), answers.count(False)) == (320, 320)
    stats = control.stats()[name]
    assert (stats.attempts, stats.effects, stats.repeats, stats.duplicates) == (640, 320, 320, 0)


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    database = tmp_path / "target.db"
    target = start(database)
    address = urlsplit(target.url)
    answered: list[str] = []
    enough = threading.Event()

    def call(client: int) -> None:
        with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)) as connection:
            for number in range(100_000):
                try:
                    connection.request("POST", "/api/things", headers=key(f"{client}-{number}"))
                    connection.getresponse().read()
                except (OSError, http.client.HTTPException):
                    return
                answered.append(f"{client}-{number}")
                if len(answered) > 300:
                    enough.set()

    with ThreadPoolExecutor(8) as pool:
        for client in range(8):
            pool.submit(call, client)
        assert enough.wait(60)
        target.kill()

    kept = {found for (found,) in rows(database, "SELECT key FROM effects WHERE times = 1")}
    assert set(answered) <= kept
    [(last,)] = rows(database, "SELECT max(seq) FROM attempts")
    with start(database) as again, httpx.Client(base_url=again.url, timeout=30, trust_env=False) as api:
        assert api.post("/api/things", headers=key(answered[-1])).json()["applied"] is False
        assert rows(database, "SELECT max(seq) FROM attempts") == [(last + 1,)]


def test_sigterm_ends_it_cleanly_even_while_a_request_hangs(tmp_path: Path) -> None:
    target = start(tmp_path / "target.db")
    target.control.break_(Behaviour("api", hang="forever"))
    with send(target, "api", "k") as connection:
        until(lambda: target.control.stats().get("api", Stats()).in_flight == 1)
        assert target.stop() == 0
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert [path.name for path in tmp_path.iterdir()] == ["target.db"]


def test_control_lists_and_resets(tmp_path: Path) -> None:
    with (
        start(tmp_path / "target.db") as target,
        httpx.Client(base_url=target.url, timeout=30, trust_env=False) as client,
    ):
        behaviour = Behaviour("api", match="/things/*", status=429, retry_after=1, body={"a": [1]}, rate=0.25)
        number = target.control.break_(behaviour)
        target.control.break_(Behaviour("other", latency_ms=1))
        client.post("/api/elsewhere", headers=key("k"))
        assert target.control.behaviours() == {number: behaviour, number + 1: Behaviour("other", latency_ms=1)}
        assert target.control.heal("nobody") == 0

        target.control.reset()
        assert target.control.behaviours() == {}
        assert target.control.stats() == {}
        assert client.post("/api/elsewhere", headers=key("k")).json()["applied"] is True


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/_control/behaviours", {"name": "api"}, "does nothing"),
        ("POST", "/_control/behaviours", {"name": "api", "status": 503, "colour": "red"}, "colour"),
        ("DELETE", "/_control/behaviours", None, "?name=NAME"),
        ("POST", "/", None, "names no API"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    target: RunningTarget, method: str, path: str, body: object, said: str
) -> None:
    answered = httpx.request(method, target.url + path, json=body, trust_env=False)

    assert answered.status_code in {404, 422}
    assert said in answered.json()["detail"]


def test_a_target_that_cannot_start_says_why_in_one_line(target: RunningTarget, tmp_path: Path) -> None:
    taken = urlsplit(target.url).port
    command = [sys.executable, "-m", "trunkline.dev.target", "--database", str(tmp_path / "target.db")]
    ended = subprocess.run([*command, "--port", str(taken)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"target: port {taken} is taken, or not ours to take. Choose another with --port, or 0."
    ]

    (tmp_path / "notes.txt").write_text("These are no tables, and never were. " * 100)
    ended = subprocess.run([*command[:-1], tmp_path / "notes.txt"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Choose another with --database." in ended.stderr


def test_start_says_when_the_target_did_not_start(target: RunningTarget, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="did not start"):
        start(tmp_path / "target.db", port=urlsplit(target.url).port or 0)


def test_control_of_a_target_that_is_gone_says_so(tmp_path: Path) -> None:
    target = start(tmp_path / "target.db")
    target.kill()
    control = TargetControl(target.url)
    with closing(control), pytest.raises(Unavailable, match="does not answer"):
        control.stats()
