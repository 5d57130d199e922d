"""What the shipping company posts, signed as it documents it."""

import json

import pytest

from producers.carrier import Carrier
from topology import bus, carrier
from trunkline import Rejected, Secret
from trunkline.flow.walk import EXAMPLES
from trunkline.sources import SignedBody
from trunkline.testing import walk
from trunkline.webhooks import WebhookRequest

DOCUMENTED = (b'{"key": "value"}', "1eed4b3d41f4653ac64fd56f1bf1cbfd349e4482cbc11dff7134bd93e5da4b0a")
"""Body and signature of the vendor's own page on webhooks; the secret there is `secretkey`."""


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> SignedBody:
    monkeypatch.setenv("CARRIER_SECRET", "secretkey")
    return SignedBody(Secret("CARRIER_SECRET"), header="Sendcloud-Signature")


@pytest.mark.parametrize("header", ["sendcloud-signature", "Sendcloud-Signature"])
def test_the_vendors_own_example_is_signed_by_it(proof: SignedBody, header: str) -> None:
    body, signature = DOCUMENTED
    proof.check({header: signature}, body)
    assert proof.sign("any", body) == {"Sendcloud-Signature": signature}


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "there is no Sendcloud-Signature;"),
        ({"sendcloud-signature": ""}, "there is no Sendcloud-Signature;"),
        ({"sendcloud-signature": "é" * 64}, "in Sendcloud-Signature is not that of these bytes"),
        ({"sendcloud-signature": "0" * 64}, "in Sendcloud-Signature is not that of these bytes"),
    ],
    ids=["none", "empty", "no hex", "wrong"],
)
def test_anything_else_is_nobody_we_know(proof: SignedBody, headers: dict[str, str], why: str) -> None:
    with pytest.raises(Rejected, match=why) as refused:
        proof.check(headers, DOCUMENTED[0])
    assert refused.value.status == 401


def test_a_changed_body_is_nobodys(proof: SignedBody) -> None:
    with pytest.raises(Rejected):
        proof.check({"sendcloud-signature": DOCUMENTED[1]}, b'{"key":  "value"}')


def test_a_parcel_is_an_event_of_its_basket() -> None:
    [event] = walk(bus, carrier, "picked_up.json").events["shop.parcels"]
    assert (event.id, event.key, event.time.isoformat()) == (
        "31242385:22:1483450200000",
        "31242385044",
        "2017-01-03T13:30:00+00:00",
    )
    assert event.data["status"] == "Shipment picked up by driver"
    assert "Stadhuisplein" not in json.dumps(event.data, default=str), "nobody here needs the address"


def test_each_status_is_another_event() -> None:
    ids = {walk(bus, carrier, name).events["shop.parcels"][0].id for name in ("picked_up.json", "ready_to_send.json")}
    assert len(ids) == 2


def test_what_is_said_of_other_things_means_nothing() -> None:
    body = json.dumps({"action": "integration_updated", "timestamp": 1, "integration": {"id": 7}}).encode()
    assert Carrier(verify=carrier.verify).events(WebhookRequest({"content-type": "application/json"}, body)) == []


@pytest.mark.parametrize("timestamp", [10**20, -(10**20)])
def test_a_time_that_is_none_is_the_senders_mistake(timestamp: int) -> None:
    body = json.loads((EXAMPLES / "carrier" / "picked_up.json").read_text()) | {"timestamp": timestamp}
    with pytest.raises(Rejected) as refused:
        walk(bus, carrier, json.dumps(body).encode())
    assert refused.value.status == 422
