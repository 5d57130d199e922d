"""Bodies of every kind, from an event on a topic to a web server that takes them apart with libraries of its own."""

import gzip
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
import uvicorn
import xmlschema
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request as Asked
from starlette.responses import Response as Answered
from starlette.routing import Route

from tests.trunkline.support import QUICK, Stage, note, notes, wait_for
from trunkline import Bus, Deliver, Delivered, Event, Permanent, Target, env
from trunkline.flow.declare import flow_name
from trunkline.formats.json import Number
from trunkline.formats.multipart import Part
from trunkline.formats.xml import Xsd
from trunkline.ledger.deliveries import State
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.sinks import HttpSink
from trunkline.verdict import Verdict

ENVELOPE = str(files("xmlschema") / "schemas" / "WSDL" / "soap-envelope.xsd")
"""The schema of SOAP 1.1 as its makers publish it."""
SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
FITS = Xsd(ENVELOPE)


class Clerk(HttpSink):
    """Sends each note as the kind of body that it names, and reads the answer as that kind."""

    name = "clerk"

    def request(self, event: Event[Any]) -> Request:
        number, text = event.data["number"], "Grüße & <Küsse>"
        match event.data["text"]:
            case "json":
                return Request.post("/json", json={"big": 2**64 + number, "price": Number("1.50"), "text": text})
            case "xml":
                said = {"note": {"@xmlns": "urn:notes", "number": number, "text": [text, "2"]}}
                envelope = {"@xmlns:soap": SOAP, "soap:Body": said}
                return Request.post(
                    "/xml", xml={"soap:Envelope": envelope}, schema=FITS, headers={"SOAPAction": '"urn:notes"'}
                )
            case "form":
                return Request.put("/form", form={"number": number, "tag": ["x", "y"], "text": text})
            case "multipart":
                scan = Part(bytes(range(256)) * 100, "application/octet-stream", filename="Küsse.bin")
                return Request.post("/multipart", multipart={"text": text, "scan": scan, "meta": Part.json({"a": 1})})
            case "raw":
                return Request.put("/raw", raw=(f"{number};{text}\n".encode(), "text/csv; charset=utf-8"), gzip=True)
            case _:
                return Request.post("/xml", xml={"note": 1}, schema=FITS)

    def verdict(self, response: Response) -> Verdict:
        if response.status != 200:
            return super().verdict(response)
        read = {"application/json": response.json, "text/xml": response.xml}.get(response.headers["content-type"])
        said = read() if read else {"done": response.form()["done"][0]}
        return Delivered(200) if said in ({"done": 7}, {"done": "7"}) else Permanent(f"the clerk says {said}")


@dataclass
class Office:
    """A web server that refuses every key once, keeps what came, and answers in the words that it was asked in."""

    url: str = ""
    came: dict[str, list[tuple[dict[str, str], bytes]]] = field(default_factory=lambda: defaultdict(list))
    parts: dict[str, list[Any]] = field(default_factory=dict)

    async def take(self, asked: Asked) -> Answered:
        """Answer one request."""
        kind = asked.path_params["kind"]
        self.came[kind].append((dict(asked.headers), await asked.body()))
        if len(self.came[kind]) == 1:
            return Answered(status_code=503)
        if kind in ("form", "multipart"):
            async with asked.form() as form:
                self.parts[kind] = [
                    (name, (value.filename, value.content_type, await value.read()))
                    if isinstance(value, UploadFile)
                    else (name, value)
                    for name, value in form.multi_items()
                ]
        match kind:
            case "xml":
                return Answered(
                    "<done>7</done>", media_type="text/xml; charset=utf-8", headers={"content-type": "text/xml"}
                )
            case "form":
                return Answered("done=7", headers={"content-type": "application/x-www-form-urlencoded"})
            case _:
                return Answered('{"done": 7}', headers={"content-type": "application/json"})


@contextmanager
def office() -> Iterator[Office]:
    opened = Office()
    app = Starlette(routes=[Route("/{kind}", opened.take, methods=["POST", "PUT"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, name="office")
    thread.start()
    try:
        wait_for(lambda: server.started)
        opened.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield opened
    finally:
        server.should_exit = True
        thread.join(30)


def test_every_kind_of_body_is_delivered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = stage.make(
        Bus(stage.prefix, [Deliver(notes(stage.prefix, 1), to=Clerk(Target("clerk", env("CLERK_URL"))), retry=QUICK)])
    )
    kinds = ["json", "xml", "form", "multipart", "raw"]
    with office() as clerk:
        monkeypatch.setenv("CLERK_URL", clerk.url)
        stage.write(bus, [note(7, box, box) for box in [*kinds, "wrong"]])
        with stage.running(bus):
            wait_for(lambda: stage.rows() == {State.DONE: 5, State.DEAD: 1}, why=stage.rows)
    [letter] = stage.letters(flow_name(bus.flows[0]))
    said = dict(letter.headers)["__connect.errors.exception.message"].decode()
    assert said.startswith("the body does not fit soap-envelope.xsd: /note: ")

    sent: dict[str, bytes] = {}
    headers: dict[str, dict[str, str]] = {}
    for kind in kinds:
        (head, first), (head_again, again) = clerk.came[kind]
        assert (first, head["content-type"]) == (again, head_again["content-type"]), "the same bytes for each attempt"
        assert head["idempotency-key"] == head_again["idempotency-key"]
        sent[kind], headers[kind] = again, head
    text = "Grüße & <Küsse>"
    assert json.loads(sent["json"], parse_float=Decimal) == {"big": 2**64 + 7, "price": Decimal("1.50"), "text": text}
    assert headers["xml"]["soapaction"] == '"urn:notes"'
    document = xmlschema.XmlDocument(sent["xml"].decode(), schema=ENVELOPE)
    [told] = document.getroot()[0]
    assert [(one.tag, one.text) for one in told] == [
        ("{urn:notes}number", "7"),
        ("{urn:notes}text", text),
        ("{urn:notes}text", "2"),
    ]
    assert clerk.parts["form"] == [("number", "7"), ("tag", "x"), ("tag", "y"), ("text", text)]
    assert clerk.parts["multipart"] == [
        ("text", text),
        ("scan", ("Küsse.bin", "application/octet-stream", bytes(range(256)) * 100)),
        ("meta", '{"a":1}'),
    ]
    assert (headers["raw"]["content-type"], headers["raw"]["content-encoding"]) == ("text/csv; charset=utf-8", "gzip")
    assert gzip.decompress(sent["raw"]).decode() == f"7;{text}\n"
