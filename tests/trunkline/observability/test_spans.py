"""One trace from the sender of an event to its target, as a collector of OpenTelemetry sees it."""

from typing import Any

from tests.trunkline.observability.buses import together_bus, traced_bus
from tests.trunkline.observability.hearing import Witness, post, replay
from tests.trunkline.support import SECRET, Stage, note, stamped, wait_for
from trunkline.event import to_headers
from trunkline.kafka.events import BY_KEY

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MODULE = "tests.trunkline.observability.buses"


def place(call: dict[str, Any]) -> tuple[str, str, bool]:
    """Read a call's traceparent: trace, span, and whether it is sampled."""
    _, trace, span, flags = call["traceparent"].split("-")
    return trace, span, bool(int(flags, 16) & 1)


def test_a_trace_goes_from_the_sender_through_every_hop_into_the_target(stage: Stage, exported: Witness) -> None:
    stage.make(traced_bus(stage.prefix))
    with stage.child(f"{MODULE}:traced_bus") as child:
        answer = post(child.url, note(1), traceparent=f"00-{TRACE}-{SPAN}-01")
        assert answer.status_code == 202
        wait_for(lambda: exported.spans("deliver"), why=lambda: (exported.lines(), child.log))
        assert child.terminate() == 0
    spans = {span["span"].split()[0]: span for span in exported.spans()}
    above = SPAN
    for what, kind in (("receive", 2), ("publish", 4), ("process", 5), ("deliver", 3)):
        assert (spans[what]["trace"], spans[what]["parent"], spans[what]["kind"]) == (TRACE, above, kind), what
        above = spans[what]["id"]
    assert [call["traceparent"] for call in exported.calls()] == [f"00-{TRACE}-{above}-01"]
    assert spans["receive"]["attributes"] == {"http.response.status_code": 202}
    assert spans["publish"]["attributes"]["trunkline.event"] == "a-1"
    assert spans["deliver"]["attributes"]["http.response.status_code"] == 201
    assert SECRET not in exported.file.read_text()


def test_what_its_sender_does_not_sample_makes_no_spans_and_goes_on_as_it_came(stage: Stage, exported: Witness) -> None:
    stage.make(traced_bus(stage.prefix))
    with stage.child(f"{MODULE}:traced_bus") as child:
        post(child.url, note(1), traceparent=f"00-{TRACE}-{SPAN}-00")
        post(child.url, note(2))
        wait_for(lambda: exported.spans("deliver") and len(exported.calls()) == 2, why=exported.lines)
        assert child.terminate() == 0
    first, second = exported.calls()
    assert first["traceparent"] == f"00-{TRACE}-{SPAN}-00"
    [own] = {span["trace"] for span in exported.spans()}
    assert own != TRACE
    assert second["traceparent"].startswith(f"00-{own}-")


def test_without_a_collector_a_trace_is_passed_on_and_nonsense_is_not(stage: Stage, heard: Witness) -> None:
    stage.make(traced_bus(stage.prefix))
    with stage.child(f"{MODULE}:traced_bus") as child:
        post(child.url, note(1), traceparent=f"00-{TRACE}-{SPAN}-01")
        post(child.url, note(2), traceparent=f"00-{'0' * 32}-{SPAN}-01")
        post(child.url, note(3), traceparent="../../etc/passwd")
        wait_for(lambda: len(heard.calls()) == 3, why=heard.lines)
    assert [call["traceparent"] for call in heard.calls()] == [f"00-{TRACE}-{SPAN}-01", None, None]
    assert heard.spans() == []


def test_a_call_for_several_events_links_the_traces_that_they_came_from(stage: Stage, exported: Witness) -> None:
    bus = stage.make(together_bus(stage.prefix))
    form = stage.encoder(bus, bus.topics[0].name)
    traces = [f"{number:032x}" for number in (1, 2, 3)]
    events = [stamped(bus, note(number, box)) for number, box in enumerate("abc")]
    stage.send(
        [
            (
                bus.topics[0].name,
                (event.key or "").encode(),
                form.encode(event.data),
                (*to_headers(event), ("traceparent", f"00-{trace}-{SPAN}-01".encode())),
                BY_KEY,
            )
            for event, trace in zip(events, traces, strict=True)
        ]
    )
    with stage.child(f"{MODULE}:together_bus"):
        wait_for(lambda: sum(span["attributes"]["trunkline.events"] for span in exported.spans("deliver")) == 3)
    many = [span for span in exported.spans("deliver") if len(span["links"]) > 1]
    linked = sorted(link for span in exported.spans("deliver") for link in span["links"])
    assert many, "nothing went together"
    assert linked == [f"{trace}-{SPAN}" for trace in traces]
    assert all(span["parent"] == "" and span["trace"] not in traces for span in many)
    assert sorted(map(place, exported.calls())) == sorted(
        (span["trace"], span["id"], True) for span in exported.spans("deliver")
    )


def test_a_replay_begins_a_trace_of_its_own_with_a_link_to_the_old_one(stage: Stage, exported: Witness) -> None:
    stage.make(traced_bus(stage.prefix))
    flow = f"{stage.prefix}.marks.shelf"
    with stage.child(f"{MODULE}:traced_bus") as child:
        post(child.url, note(1, "refused"), traceparent=f"00-{TRACE}-{SPAN}-01")
        wait_for(lambda: stage.letters(flow), why=exported.lines)
        wait_for(lambda: exported.spans("deliver"))
        [failed] = exported.spans("deliver")
        assert (failed["trace"], failed["status"], failed["attributes"]["error.type"]) == (TRACE, 2, "permanent")
        exported.forgive()
        replay(stage, flow, "refused")
        wait_for(lambda: len(exported.spans("deliver")) == 2, why=exported.lines)
    again = exported.spans("deliver")[1]
    [process] = exported.spans("process")
    assert again["trace"] != TRACE
    assert (again["parent"], again["links"], again["status"]) == ("", [f"{TRACE}-{process['id']}"], 0)
    assert place(exported.calls()[1]) == (again["trace"], again["id"], True)
