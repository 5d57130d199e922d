"""A small project in a git repository of its own: a help desk whose tickets go to a pager and to a customer system."""

import json
import os
import subprocess
from pathlib import Path

from trunkline.avro.files import released
from trunkline.avro.types import module

TOPOLOGY = '''"""What flows where at the help desk."""

from datetime import UTC, datetime

from schemas import PageV1, TicketV1
from trunkline import ApiKey, Bus, Deliver, Drop, Event, Process, Publish, Secret, Target, Topic, env
from trunkline.sinks import HttpSink, Request
from trunkline.sources import StandardWebhooks, Webhook, WebhookRequest


class Desk(Webhook):
    name = "desk"

    def events(self, request: WebhookRequest) -> list[Event[TicketV1]]:
        ticket = request.json(TicketV1)
        return [Event(ticket["number"], datetime(2026, 7, 1, tzinfo=UTC), ticket)]


def no_spam(ticket):
    if ticket.data["text"] == "spam":
        return Drop("spam")
    return ticket


def pages(ticket):
    """Urgent tickets page whoever is on duty."""
    if ticket.data["urgency"] > 3:
        yield {"number": ticket.data["number"], "customer": ticket.data["customer"], "text": ticket.data["text"]}


class Pager(HttpSink):
    name = "pager"

    def request(self, event: Event[PageV1]) -> Request:
        return Request.post("/pages", json={"ticket": event.data["number"], "message": event.data["text"]})


class Crm(HttpSink):
    name = "crm"

    def request(self, event: Event[TicketV1]) -> Request:
        return Request.put(
            "/customers/{id}/tickets/{number}",
            path={"id": event.data["customer"], "number": event.id},
            json={"urgency": event.data["urgency"], "lines": event.data["text"].split()},
        )


desk = Desk(verify=StandardWebhooks(Secret("DESK_SECRET")))
pager = Target("pager", env("PAGER_URL"), auth=ApiKey(Secret("PAGER_KEY")))
crm = Target("crm", env("CRM_URL"))
tickets = Topic("desk.tickets", TicketV1, key="customer")
paged = Topic("desk.pages", PageV1, key="customer")
bus = Bus(
    "desk",
    [
        Publish(desk, to=tickets),
        Process(tickets, [no_spam], to={paged: pages}),
        Deliver(paged, to=Pager(pager)),
        Deliver(tickets, to=Crm(crm)),
    ],
)
'''
TICKET = ["number", "customer", "text"]
SCHEMAS = {
    "ticket": [*({"name": name, "type": "string"} for name in TICKET), {"name": "urgency", "type": "int"}],
    "page": [
        {"name": "number", "type": "string"},
        {"name": "customer", "type": "string"},
        {"name": "text", "type": "string", "sensitive": True},
    ],
}
EXAMPLES = {
    "burning.json": {"number": "t1", "customer": "c7", "text": "house burns", "urgency": 5},
    "calm.json": {"number": "t2", "customer": "c8", "text": "printer ink", "urgency": 1},
    "spam.json": {"number": "t3", "customer": "c8", "text": "spam", "urgency": 5},
}


def project(folder: Path) -> Path:
    """Write the project and commit it as the first revision."""
    (folder / "schemas").mkdir(parents=True)
    for name, fields in SCHEMAS.items():
        schema = {"type": "record", "name": name.capitalize(), "namespace": "desk", "fields": fields}
        (folder / "schemas" / f"{name}.v1.avsc").write_text(json.dumps(schema))
    types(folder)
    examples = folder / "producers/examples/desk"
    examples.mkdir(parents=True)
    for name, ticket in EXAMPLES.items():
        (examples / name).write_text(json.dumps(ticket))
    (folder / "topology.py").write_text(TOPOLOGY)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "First")
    return folder


def types(folder: Path) -> None:
    """Write the types of the schema files."""
    (folder / "schemas/__init__.py").write_text(module(released(folder / "schemas")))


def commit(folder: Path, title: str) -> None:
    """Commit all there is, always at the same moment: the commit's id is the same in every run."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", title)


def git(folder: Path, *arguments: str) -> str:
    """Run git without the settings of this machine."""
    who = {"NAME": "Somebody", "EMAIL": "somebody@example.org", "DATE": "2026-07-01T12:00:00Z"}
    env = {f"GIT_{role}_{name}": value for role in ("AUTHOR", "COMMITTER") for name, value in who.items()}
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **plain, **env}, capture_output=True, text=True, check=True
    )
    return done.stdout


def change(folder: Path, *replacements: tuple[str, str]) -> None:
    """Replace parts of the topology; each must be there."""
    text = (folder / "topology.py").read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (folder / "topology.py").write_text(text)
