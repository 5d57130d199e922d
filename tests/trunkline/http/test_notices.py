"""What a target says of its API's future: told once for each thing it says, however many answers say it."""

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trunkline.http.served import Served, answer
from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.support import Shelf
from trunkline import Bus, Deliver, Target, Topic, env
from trunkline.engine.targets import ANNOUNCED, Targets
from trunkline.http.notices import Notice, notices_of
from trunkline.observe import Metrics, Observed
from trunkline.requests import Request

SUNSET = "Sat, 31 Dec 2018 23:59:59 GMT"
"""The example of RFC 8594 §3; 2018 ended on a Monday."""


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"deprecation": "@1688169599"}, ["its API is deprecated since 2023-06-30"]),  # RFC 9745 §2.1
        ({"deprecation": "@1688169599;note=1"}, ["its API is deprecated since 2023-06-30"]),
        ({"deprecation": "Sun, 11 Nov 2018 23:59:59 GMT"}, ["its API is deprecated since 2018-11-11"]),
        ({"deprecation": "true"}, ["its API is deprecated"]),
        ({"deprecation": "false"}, []),
        ({"deprecation": "soon\x1b[2J"}, ["its API is deprecated (soon\N{REPLACEMENT CHARACTER}[2J)"]),
        ({"sunset": SUNSET}, ["its API ends on 2018-12-31"]),
        ({"sunset": "@99999999999999"}, ["its API ends (@99999999999999)"]),
        ({"sunset": "Fri, 31 Dec 9999 23:59:59 -0100"}, ["its API ends (Fri, 31 Dec 9999 23:59:59 -0100)"]),
        (
            {"sunset": SUNSET, "link": '<https://a.example/old>; rel="self", <https://a.example/end>;rel="sunset"'},
            ["its API ends on 2018-12-31; see https://a.example/end"],
        ),
        (
            {"deprecation": "@0", "link": "<https://a.example/v2>; rel=successor-version"},
            ["its API is deprecated since 1970-01-01; see https://a.example/v2"],
        ),
        ({"warning": '299 - "Use v2" "Tue, 1 Jul 2025 00:00:00 GMT", 299 x "Use v2"'}, ["it warns: Use v2"]),
        ({"warning": '299 api "Field \\"a\\" goes"'}, ['it warns: Field "a" goes']),
        ({"warning": "v1 goes"}, ["it warns: v1 goes"]),
        ({"content-type": "application/json", "link": "<x>; rel=sunset"}, []),
    ],
)
def test_what_headers_announce(headers: dict[str, str], told: list[str]) -> None:
    assert [notice.text for notice in notices_of(headers)] == told


def test_the_moment_is_kept() -> None:
    assert list(notices_of({"sunset": SUNSET})) == [
        Notice("sunset", "its API ends on 2018-12-31", datetime(2018, 12, 31, 23, 59, 59, tzinfo=UTC))
    ]


@given(st.dictionaries(st.sampled_from(["deprecation", "sunset", "warning", "link"]), st.text(max_size=400)))
def test_nothing_that_a_target_says_breaks_anything(headers: dict[str, str]) -> None:
    for notice in notices_of(headers):
        assert notice.text.isprintable()
        assert len(notice.text) < 600


def test_it_is_told_once_and_again_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    depot = Target("depot", env("DEPOT_URL"), allow=["127.0.0.0/8"])
    bus = Bus("b", [Deliver(Topic("left", NoteWrittenV1), to=Shelf(depot))])
    seen: list[Observed] = []
    metrics = Metrics()

    def observe(one: Observed) -> None:
        seen.append(one)
        metrics(one)

    async def call(targets: Targets, headers: list[str], times: int) -> None:
        async with Served(answer(201, *headers, "connection: close")) as served:
            monkeypatch.setenv("DEPOT_URL", served.url)
            async with Targets(bus, list(bus.delivering), allow=(), connections=1, observe=observe) as fresh:
                fresh._notices = targets._notices
                for _ in range(times):
                    await fresh.send(depot, Request.get("/"), "k", None, again=True)
                await fresh.client(depot).get("/")

    async def run() -> Targets:
        monkeypatch.setenv("DEPOT_URL", "http://127.0.0.1")
        targets = Targets(bus, list(bus.delivering), allow=(), connections=1, observe=observe)
        await call(targets, [], 2)
        assert seen == []
        await call(targets, [f"sunset: {SUNSET}", "deprecation: @1688169599"], 3)
        await call(targets, ["sunset: Mon, 31 Dec 2029 23:59:59 GMT"], 2)
        for number in range(2 * ANNOUNCED):
            await call(targets, [f'warning: 299 - "request {number} was old"'], 1)
        return targets

    targets = asyncio.run(run())
    assert [(one.what, one.target, one.outcome) for one in seen[:3]] == [
        ("announced", "depot", "deprecation"),
        ("announced", "depot", "sunset"),
        ("announced", "depot", "sunset"),
    ]
    assert len(seen) == len(targets.notices()["depot"]) == ANNOUNCED
    assert targets.notices()["depot"][:2] == ["its API is deprecated since 2023-06-30", "its API ends on 2018-12-31"]

    def figure(kind: str) -> float | None:
        labels = {"target": "depot", "kind": kind}
        return metrics.registry.get_sample_value("trunkline_target_notice_timestamp_seconds", labels)

    assert (figure("deprecation"), figure("warning")) == (1688169599, 0)
    assert figure("sunset") == datetime(2018, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp(), "the earliest counts"
