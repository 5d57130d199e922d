"""Secrets and sensitive fields in every form in which somebody may say them again."""

import base64
import html
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import redact as module
from trunkline.avro.codec import Codec
from trunkline.cli.worker import clean
from trunkline.engine.agents import Timekeeper
from trunkline.engine.process import Processor
from trunkline.errors import Halt
from trunkline.redact import SECRET, SENSITIVE, has_marks, hashed, keep_secret, marked, mask, redact, redact_data
from trunkline.settings import Secret, env

VALUE = "p@ss/wörd+ 9?=&"


@pytest.fixture(autouse=True)
def own_secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_secrets", set())
    module._finder.cache_clear()
    yield
    module._finder.cache_clear()


def encoded(value: str) -> list[str]:
    raw = value.encode()
    return [
        value,
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        quote_plus(value).replace("%2B", "%2b"),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        json.dumps(value)[1:-1].replace("/", "\\/"),  # as PHP writes it
        json.dumps(value)[1:-1].replace("&", "\\u0026"),  # as Go does
        "".join(one if one not in "+&" and one.isascii() else f"\\u{ord(one):04X}" for one in value),  # as .NET does
        html.escape(value),
        raw.hex(),
        raw.hex().upper(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        base64.b64encode(raw).decode().rstrip("="),
    ]


def test_a_secret_is_kept_from_the_moment_it_is_read() -> None:
    assert redact("the key is hush-hush-1") == "the key is hush-hush-1"
    Secret("TOKEN").read({"TOKEN": "hush-hush-1"})
    assert redact("the key is hush-hush-1.") == f"the key is {SECRET}."
    env("PLAIN").read({"PLAIN": "http://there"})
    assert redact("http://there") == "http://there"


@pytest.mark.parametrize("form", encoded(VALUE))
def test_it_is_found_in_every_form(form: str) -> None:
    keep_secret(VALUE)
    assert redact(f"said ({form}) and no more") == f"said ({SECRET}) and no more"


@pytest.mark.parametrize("before", ["", "u", "us", "use", "user:"])
@pytest.mark.parametrize("after", ["", "!", "!!", ":rest"])
def test_it_is_found_inside_base64_wherever_it_begins(before: str, after: str) -> None:
    keep_secret("correct-horse-battery")
    text = base64.b64encode(f"{before}correct-horse-battery{after}".encode()).decode()
    found = redact(f"Basic {text}")
    assert SECRET in found
    left = found.removeprefix("Basic ").replace(SECRET, "")
    assert len(left) <= len(text) - 26, "at most the characters that are not its own are left"


def test_the_scheme_before_it_may_be_missing_or_another() -> None:
    keep_secret("Bearer abcdefghijklmnop")
    assert redact("no abcdefghijklmnop, Bearer abcdefghijklmnop") == f"no {SECRET}, {SECRET}"


def test_a_short_secret_is_found_where_it_stands_alone() -> None:
    keep_secret("an")
    assert redact("an answer: 'an'") == f"{SECRET} answer: '{SECRET}'"


def test_of_two_secrets_the_longer_is_replaced_whole() -> None:
    keep_secret("abcdefgh")
    keep_secret("abcdefghijkl")
    assert redact("abcdefghijkl abcdefgh") == f"{SECRET} {SECRET}"


@pytest.mark.parametrize("length", range(6, 19))
def test_one_that_was_cut_at_the_end_is_found_by_its_beginning(length: int) -> None:
    keep_secret("correct-horse-batt")
    whole = "the key correct-horse-batt"
    assert redact(whole[: 8 + length]) == f"the key {SECRET}"
    assert redact("Tel. 0171-55512", ["0171-555123"]) == f"Tel. {SENSITIVE}"
    assert redact("correct-horses") == "correct-horses"


def test_one_that_was_cut_is_found_by_its_beginning_wherever_the_text_goes_on() -> None:
    keep_secret("correct-horse-batt")
    assert redact("the key correct-ho…: try again, correct-ho") == f"the key {SECRET}…: try again, {SECRET}"
    assert redact("Tel. 0171-555…, wrong", ["0171-555123"]) == f"Tel. {SENSITIVE}…, wrong"


@pytest.mark.parametrize("quote", ['say "when"', "it's <so>", 'a\\"b\\\\"'])
def test_quotes_are_found_however_they_are_escaped(quote: str) -> None:
    keep_secret(quote)
    dumped = json.dumps(quote)[1:-1]
    for form in (
        dumped,
        dumped.replace('\\"', "\\u0022").replace("'", "\\u0027").replace("<", "\\u003C").replace(">", "\\u003E"),
        html.escape(quote),
    ):
        assert SECRET in redact(f"({form})"), form


def test_nothing_is_no_secret() -> None:
    keep_secret("")
    keep_secret("  ")
    assert redact("any text  at all", ["", " "]) == "any text  at all"


def test_user_and_password_of_an_address_are_hidden() -> None:
    said = "could not connect to postgresql://me:s3cret@db:5432/ledger; see https://there/a:b@c"
    assert redact(said) == f"could not connect to postgresql://{SECRET}@db:5432/ledger; see https://there/a:b@c"
    assert redact("https://t0ken@there/x?mail=a@b") == f"https://{SECRET}@there/x?mail=a@b", "a user alone is a token"
    assert redact("https://there?mail=a@b") == "https://there?mail=a@b"
    assert redact("postgresql://me:s3@cret@db:5432/ledger") == f"postgresql://{SECRET}@db:5432/ledger"


@given(st.text(min_size=6, max_size=40).filter(lambda text: text.strip()), st.text(max_size=20), st.text(max_size=20))
def test_whatever_a_secret_is_made_of(value: str, before: str, after: str) -> None:
    module._secrets.clear()
    module._finder.cache_clear()
    keep_secret(value)
    found = redact(before + value + after)
    assert value not in found.replace(SECRET, "\0")


def test_names_of_headers_hide_their_values_and_texts_are_redacted_at_any_depth() -> None:
    keep_secret("hush-hush-1")
    given = {
        "Authorization": "Basic abc",
        "headers": [{"Set-Cookie": "a=b", "x-api-key": b"k", "X-Auth-Token": "t", "client_secret": "s"}],
        "password": None,
        "event": "sent hush-hush-1",
        "status": 401,
    }
    assert redact_data(given) == {
        "Authorization": SECRET,
        "headers": [{"Set-Cookie": SECRET, "x-api-key": SECRET, "X-Auth-Token": SECRET, "client_secret": SECRET}],
        "password": None,
        "event": f"sent {SECRET}",
        "status": 401,
    }
    assert clean(None, "info", {"event": "e", "why": "hush-hush-1", "token": "x"}) == {
        "event": "e",
        "why": SECRET,
        "token": SECRET,
    }


PERSON = {
    "type": "record",
    "name": "Person",
    "namespace": "people",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "mail", "type": ["null", "string"], "sensitive": True},
        {"name": "born", "type": {"type": "int", "logicalType": "date"}, "sensitive": True},
        {
            "name": "home",
            "type": {
                "type": "record",
                "name": "Place",
                "fields": [
                    {"name": "street", "type": "string", "sensitive": True},
                    {"name": "town", "type": "string", "sensitive": False},
                ],
            },
        },
        {"name": "others", "type": {"type": "array", "items": "Place"}},
        {"name": "by_name", "type": {"type": "map", "values": ["null", "people.Place"]}},
        {"name": "card", "type": ["null", "Place"], "sensitive": True},
    ],
}


def place(street: str) -> dict[str, Any]:
    return {"street": street, "town": "Hull"}


ANN = {
    "id": "p-1",
    "mail": "Ann@Example.org",
    "born": date(1980, 2, 3),
    "home": place("Long Lane 1"),
    "others": [place("High Road 2")],
    "by_name": {"x": place("Low Road 3"), "y": None},
    "card": place("Back Alley 4"),
}


@pytest.mark.parametrize("schema", [PERSON, Codec(json.dumps(PERSON)).schema], ids=["as written", "as parsed"])
def test_marked_fields_are_hidden_wherever_they_are(schema: Any) -> None:
    hidden = {"street": SENSITIVE, "town": "Hull"}
    assert mask(schema, ANN) == {
        "id": "p-1",
        "mail": SENSITIVE,
        "born": SENSITIVE,
        "home": hidden,
        "others": [hidden],
        "by_name": {"x": hidden, "y": None},
        "card": SENSITIVE,
    }
    assert mask(schema, {**ANN, "mail": None})["mail"] is None
    assert ANN["mail"] == "Ann@Example.org", "the event itself is as it was"
    assert has_marks(schema)
    assert marked(schema, ANN) == [
        "Ann@Example.org",
        "1980-02-03",
        "1980-02-03",
        "Long Lane 1",
        "High Road 2",
        "Low Road 3",
        "Back Alley 4",
        "Hull",
    ]


def test_a_schema_without_marks_hides_nothing() -> None:
    plain = json.loads(json.dumps(PERSON).replace('"sensitive": true', '"sensitive": false'))
    assert not has_marks(plain)
    assert marked(plain, ANN) == []
    assert mask(plain, ANN) == ANN


def test_a_record_that_refers_to_itself_is_hidden_to_its_depth() -> None:
    tree = {
        "type": "record",
        "name": "Tree",
        "fields": [
            {"name": "word", "type": "string", "sensitive": True},
            {"name": "next", "type": ["null", "Tree"]},
        ],
    }
    assert mask(tree, {"word": "a", "next": {"word": "b", "next": None}}) == {
        "word": SENSITIVE,
        "next": {"word": SENSITIVE, "next": None},
    }


def test_what_a_target_says_again_of_a_sensitive_value_is_hidden_in_any_case_and_form() -> None:
    said = "ann@example.org is unknown (mail=ann%40example.org), born 1980-02-03, in LONG LANE 1"
    assert redact(said, marked(PERSON, ANN)) == (
        f"{SENSITIVE} is unknown (mail={SENSITIVE}), born {SENSITIVE}, in {SENSITIVE}"
    )


def test_texts_of_values_that_are_no_text() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "v", "type": "x", "sensitive": True}]}
    assert marked(schema, {"v": 42}) == ["42"]
    assert marked(schema, {"v": True}) == []
    assert marked(schema, {"v": b"\x01\xff"}) == ["01ff", "\x01\ufffd"]
    assert marked(schema, {"v": ["a", {"b": "c"}]}) == ["a", "c"]
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert marked(schema, {"v": at}) == ["2026-01-02T03:04:05+00:00", "2026-01-02 03:04:05+00:00"]
    assert redact("420 of 42", marked(schema, {"v": 42})) == f"420 of {SENSITIVE}"


def test_a_key_has_a_name_that_does_not_give_it_away() -> None:
    assert hashed(None) == ""
    assert hashed(b"ann@example.org") == hashed(b"ann@example.org")
    assert hashed(b"ann@example.org") != hashed(b"bob@example.org")
    assert len(hashed(b"")) == 12


@pytest.mark.parametrize(("flow", "see"), [(Processor, "see"), (Timekeeper, "_see")])
def test_why_a_flow_has_halted_is_kept_and_told_without_secrets(flow: type, see: str) -> None:
    keep_secret("hush-hush-hush")
    told: list[str] = []
    halted: Any = object.__new__(flow)
    setattr(halted, see, lambda _what, *, detail: told.append(detail))
    halted._halt(Halt("bug in Trunkline: KeyError: 'hush-hush-hush'"))
    said = f"bug in Trunkline: KeyError: '{SECRET}'. When that is mended, start its workers again."
    assert [halted.halted, *told] == [said] * 2
