"""Registries, as far as they do not ask anybody."""

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from trunkline.errors import Unavailable, UsageError
from trunkline.kafka import confluent, registry
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.confluent import Confluent, words
from trunkline.kafka.registry import NOT_FOUND_FOR, Registry


@pytest.fixture(params=["embedded", "Confluent's"])
def schemas(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a registry that has no schema at all, and says when it is asked."""
    made: Any
    asked: list[object] = []
    if request.param == "embedded":
        made = Registry(Cluster("nowhere"), "schemas")
        monkeypatch.setattr(made, "_catch_up", asked.append)
    else:
        made = Confluent("http://nowhere")

        def none(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return httpx.Response(404)

        made._client.close()
        made._client = httpx.Client(base_url="http://nowhere", transport=httpx.MockTransport(none))
    made.asked = asked
    with closing(made):
        yield made


def test_ids_that_nobody_registered_are_asked_for_again_and_fill_no_memory(
    schemas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    for module in (confluent, registry):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert [schemas.text_of(7), schemas.text_of(7), len(schemas.asked)] == [None, None, 1]
    for schema_id in range(1_000, 3_000):
        now[0] += NOT_FOUND_FOR / 100
        assert schemas.text_of(schema_id) is None
    assert len(schemas._missing) <= 101
    schemas.text_of(7)
    assert len(schemas.asked) == 2_002, "it may have come since"


@pytest.mark.parametrize("url", ["https://me:a/geheim@host", "https://me:geheim@host:port", "me:geheim@host", "geheim"])
def test_an_address_that_is_none_is_not_quoted(url: str) -> None:
    with pytest.raises(UsageError, match="address of the schema registry is none") as raised:
        Confluent(url)
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("page", [b"<html>log in</html>", b"{}", b"[]", b'{"schema": 7, "id": "x"}'])
def test_a_page_of_a_proxy_before_the_registry_is_no_schema(page: bytes) -> None:
    with closing(Confluent("http://nowhere")) as schemas:
        schemas._client = httpx.Client(
            base_url="http://nowhere", transport=httpx.MockTransport(lambda _: httpx.Response(200, content=page))
        )
        for ask in (lambda: schemas.text_of(1), lambda: schemas.id_of('{"type": "record", "name": "A", "fields": []}')):
            with pytest.raises(Unavailable, match=r"answered 200 without the (id|schema) of a schema"):
                ask()


def test_words_of_a_registry_are_told_without_its_password() -> None:
    with closing(Confluent("http://me:g%C3%A4heim-secret@nowhere")):
        said = httpx.Response(403, json={"message": "x" * 190 + " gäheim-secret"})
        assert "g" not in words(said)
