"""The example of docs/sources.md reads the document beside it, and a wrong one is answered as the page says."""

import json
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from trunkline import Rejected, Secret
from trunkline.gateway.problems import of_rejected
from trunkline.sources import StandardWebhooks
from trunkline.webhooks import WebhookRequest

PAGE = Path("docs/sources.md")
BLOCK = re.compile(r"^```(python|xml|json)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_depot_reads_its_document_and_is_told_what_is_wrong_with_another() -> None:
    blocks = dict(BLOCK.findall(PAGE.read_text()))
    defined: dict[str, Any] = {}
    exec(blocks["python"], defined)  # noqa: S102 - the page is ours
    depot = defined["Depot"](StandardWebhooks(Secret("DEPOT_SECRET")))
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
