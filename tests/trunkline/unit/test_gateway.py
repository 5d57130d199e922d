"""What the gateway does with a body that never ends."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from trunkline.errors import Rejected
from trunkline.gateway import app


async def one_byte_and_no_more() -> dict[str, Any]:
    if not sent:
        sent.append(True)
        return {"type": "http.request", "body": b"{", "more_body": True}
    await asyncio.Event().wait()
    raise AssertionError


sent: list[bool] = []


def test_a_body_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PATIENCE", 0.05)
    request = Request({"type": "http", "method": "POST", "headers": []}, one_byte_and_no_more)
    with pytest.raises(Rejected, match="nothing was published") as refused:
        asyncio.run(app.read(request))
    assert refused.value.status == 408
