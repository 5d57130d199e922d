"""The examples of docs/sources.md: what they read, and that a wrong request is answered as the page says."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from trunkline import Rejected, Secret
from trunkline.flow.walk import EXAMPLES, read
from trunkline.gateway.problems import of_rejected
from trunkline.sources import StandardWebhooks
from trunkline.webhooks import WebhookRequest

PAGE = Path("docs/sources.md").absolute()
BLOCK = re.compile(r"^```(python|xml|json)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def example(name: str) -> dict[str, Any]:
    defined: dict[str, Any] = {}
    exec(dict(EXAMPLE.findall(PAGE.read_text()))[name], defined)  # noqa: S102 - the page is ours
    return defined


def test_the_depot_reads_its_document_and_is_told_what_is_wrong_with_another() -> None:
    blocks = dict(BLOCK.findall(PAGE.read_text()))
    depot = example("depot")["Depot"](StandardWebhooks(Secret("DEPOT_SECRET")))
    kind = {"content-type": "application/xml"}
    [event] = depot.events(WebhookRequest(kind, blocks["xml"].encode()))
    assert (event.id, event.time) == ("D-7", datetime.fromisoformat("2026-07-01T12:00:00+02:00"))
    assert event.data["line"] == [{"@sku": "a", "pieces": 2, "price": Decimal("12.50"), "note": None}]
    wrong = blocks["xml"].replace(">2<", ">many<").encode()
    with pytest.raises(Rejected) as error:
        depot.events(WebhookRequest(kind, wrong))
    answer = of_rejected(error.value)
    assert answer.media_type == "application/problem+json"
    assert json.loads(bytes(answer.body)) == json.loads(blocks["json"])


def test_orders_are_read_from_cloud_events_and_others_mean_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    said = {
        "specversion": "1.0",
        "id": "7",
        "source": "//orders.example",
        "type": "com.example.order.placed",
        "time": "2026-07-01T12:00:00Z",
        "data": {"number": "A-7", "total": "12.50"},
    }
    orders = example("orders")["Orders"](StandardWebhooks(Secret("ORDERS_SECRET")))
    folder = tmp_path / EXAMPLES / "orders"
    folder.mkdir(parents=True)
    (folder / "one.cloudevents.json").write_text(json.dumps(said))
    (folder / "two.cloudevents-batch.json").write_text(json.dumps([{**said, "type": "other"}, said]))
    monkeypatch.chdir(tmp_path)
    for name in ("one.cloudevents.json", "two.cloudevents-batch.json"):
        [event] = orders.events(read(orders, name))
        assert (event.id, event.time) == ("//orders.example 7", datetime(2026, 7, 1, 12, tzinfo=UTC))
        assert event.data == {"number": "A-7", "total": Decimal("12.50")}
