"""A project whose schemas are to change: a hotel, with code that reads each field in another way."""

import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from tests.trunkline.integration.project import run

ROOM = {"name": "rooms", "type": {"type": "array", "items": {
    "type": "record", "name": "Room", "fields": [{"name": "floor", "type": "long"}, {"name": "size", "type": "long"}],
}}}  # fmt: skip
NAMES = ["guest", "city", "street", "country", "phone", "mail", "notes", "state", "payer", "agent", "unread"]
FILES = {
    "producers/desk.py": """
        from typing import Any
        from trunkline import Event
        from trunkline.sources import Webhook, WebhookRequest


        class Desk(Webhook):
            name = "desk"

            def events(self, request: WebhookRequest) -> list[Event[Any]]:
                import json
                from datetime import UTC, datetime
                data = json.loads(request.body)
                return [Event(id=data["guest"], time=datetime(2026, 1, 1, tzinfo=UTC), data=data)]
        """,
    "producers/examples/desk/one.json": json.dumps(
        dict.fromkeys(NAMES, "x") | {"rooms": [{"floor": 1, "size": 2}], "total": 3, "city": "Bern"}
    ),
    "producers/examples/tables.json": '{"hotel.cities": {"Bern": {"city": "Bern", "zone": "CET", "mayor": "y"}}}',
    "consumers/steps/stays.py": """
        from collections.abc import Iterator, Mapping
        from operator import itemgetter
        from typing import Any
        from schemas import BillV1, CityV1, RoomV1, StayV1
        from trunkline import Drop, Event


        def known(stay: Event[StayV1], cities: Mapping[str, CityV1]) -> Event[StayV1] | Drop:
            if not stay.data["guest"]:
                return Drop("nobody")
            if stay.data.get("country", "") == "":
                return Drop("nowhere")
            city = cities.get("Bern")
            return Drop("closed") if city and city["zone"] == "" else at(stay)


        def at(stay: Event[StayV1]) -> Event[StayV1]:
            text = address(stay.data)
            if "phone" not in stay.data:
                return stay
            match stay.data:
                case {"mail": mail, "guest": _}:
                    print(mail, text)
            loosely(stay.data)
            return stay


        def address(stay: StayV1) -> str:
            return f"{stay['street']}"


        def loosely(stay: Any) -> None:
            stay.get("notes")
            itemgetter("agent")(stay)


        def bills(stay: Event[StayV1]) -> Iterator[BillV1]:
            floors = [
                room
                .get(
                    "floor"
                )
                for room in stay.data["rooms"]
            ]
            yield {"guest": "x", "total": sum(map(int, map(str, floors)))}
        """,
    "consumers/sinks/till.py": """
        from schemas import BillV1, StayV1
        from trunkline import Event
        from trunkline.sinks import HttpSink, Request


        class Till(HttpSink):
            name = "till"

            def request(self, event: Event[StayV1]) -> Request:
                return Request.post("/x", json={"p": event.data["payer"], "t": event.data["total"]})
        """,
    "topology.py": """
        from consumers.sinks.till import Till
        from consumers.steps.stays import bills, known
        from producers.desk import Desk
        from schemas import BillV1, CityV1, StayV1
        from trunkline import Bus, Deliver, Enrich, Process, Publish, Secret, Table, Target, Topic, Where, env
        from trunkline.sources import StandardWebhooks

        stays = Topic("hotel.stays", StayV1)
        bill = Topic("hotel.bills", BillV1)
        big = Topic("hotel.big", StayV1)
        cities = Table("hotel.cities", CityV1, key="city")
        bus = Bus("hotel", [
            Publish(Desk(verify=StandardWebhooks(Secret("X"))), to=stays),
            Process(stays, [Enrich(known, cities)], to={bill: bills, big: Where('state != ""')}),
            Deliver(big, to=Till(Target("till", env("TILL_URL")))),
        ])
        """,
}  # fmt: skip


def stay(rename: dict[str, str], kinds: dict[str, Any] | None = None) -> dict[str, Any]:
    """Define a stay with fields under other names; each says what it was called before, so that v1 can be read."""
    fields: list[dict[str, Any]] = [{"name": name, "type": "string"} for name in NAMES]
    fields += [json.loads(json.dumps(ROOM)), {"name": "total", "type": "long"}]
    for field in [*fields, *fields[len(NAMES)]["type"]["items"]["fields"]]:
        if (new := rename.get(field["name"])) is not None:
            field |= {"aliases": [field["name"]], "name": new}
        elif kinds and field["name"] in kinds:
            field["type"] = kinds[field["name"]]
    return {"type": "record", "name": "Stay", "fields": fields}


def record(name: str, **fields: str) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": one, "type": kind} for one, kind in fields.items()]}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.com"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def write(folder: Path, name: str, definition: dict[str, Any]) -> None:
    (folder / f"schemas/{name}.avsc").write_text(json.dumps(definition, indent=2))


def build(folder: Path) -> None:
    """Make the project and let the type checker read the library, which it remembers for whoever copies its cache."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    for package in ("producers", "consumers", "consumers/steps", "consumers/sinks"):
        (folder / package / "__init__.py").touch()
    (folder / "schemas").mkdir()
    write(folder, "stay.v1", stay({}))
    write(folder, "bill.v1", record("Bill", guest="string", total="long"))
    write(folder, "city.v1", record("City", city="string", zone="string", mayor="string"))
    assert run(folder, "schema", "types").code == 0
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    write(folder, "city.v2", record("City", city="string", zone="string"))
    assert run(folder, "schema", "check").code == 0  # and the type checker remembers the library
    (folder / "schemas/city.v2.avsc").unlink()
