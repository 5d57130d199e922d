"""`trunkline send`: post a signed request to the gateway, as the upstream system would."""

import sys
import uuid
from pathlib import Path
from typing import Annotated

import httpx
import typer
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from trunkline import settings
from trunkline.adapters import Source
from trunkline.cli.project import load_bus, out, print_json, talk
from trunkline.errors import Rejected, Unavailable, UsageError
from trunkline.flow.declare import Bus
from trunkline.flow.walk import example, kind_of
from trunkline.webhooks import WebhookRequest

PATIENCE = 30
"""Seconds that an answer may take."""


def send(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A source of the topology.")],
    example_: Annotated[bool, typer.Option("--example", help="Send the source's first example.")] = False,  # noqa: FBT002
    file: Annotated[Path | None, typer.Option(help="Send this file, or an example by its name.")] = None,
    url: Annotated[str | None, typer.Option(help="The gateway; default: the address in the settings.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the gateway's answer.")] = False,  # noqa: FBT002
) -> None:
    """Validate, sign and post one request; its bytes are sent as they are."""
    bus = load_bus()
    found = source_of(bus, source)
    if example_ == (file is not None):
        raise UsageError("say what to send: --example, or --file FILE.")
    path = file if file is not None and file.exists() else example(found, "" if file is None else file.name)
    try:
        body = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--file {path}: {error.strerror}.") from None
    kind = {"content-type": kind_of(path.name)}
    validate(found, path, WebhookRequest(kind, body))
    config = settings.load().gateway
    address = url or f"http://{config.host}:{config.port}"
    headers = kind | found.verify.sign(f"msg_{uuid.uuid4().hex}", body)
    try:
        answer = httpx.post(
            f"{address}/in/{found.name}",
            content=body,
            headers=headers,
            timeout=PATIENCE,
            trust_env=url is not None,  # the gateway of the settings is on this machine: no proxy is meant for it
        )
    except httpx.TimeoutException:
        why = "it may have published it. Send it again: what has come before has no second effect"
        raise Unavailable(f"the gateway at {address} has not answered for {PATIENCE} s, and {why}.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"no gateway at {address}: {error}. Start one with `trunkline run`, or say --url.") from None
    if answer.status_code >= 300:
        talk.print(answer.text, markup=False)
        raise Unavailable(f"the gateway answered {answer.status_code}; nothing was acknowledged.")
    try:
        acknowledged = ACKNOWLEDGED.validate_json(answer.content)
    except ValidationError:
        raise Unavailable(f"what answered {answer.status_code} at {address} is no gateway of Trunkline.") from None
    if json:
        print_json(answer.json())
        sys.exit(0)
    for event in acknowledged["events"]:
        where = f" → {event['topic']} partition {event['partition']} offset {event['offset']}"
        out.print(
            f"{event['id']}  {event['outcome']}{where if event['outcome'] == 'published' else ', as it was before'}",
            markup=False,
        )


class Taken(TypedDict):
    """One event, where it is now."""

    id: str
    outcome: str
    topic: str
    partition: int | None
    offset: int | None


class Acknowledged(TypedDict):
    """What a gateway answers to events that it has published."""

    events: list[Taken]


ACKNOWLEDGED = TypeAdapter(Acknowledged)


def source_of(bus: Bus, name: str) -> Source:
    """Find a source by name.

    Raises:
        UsageError: there is none; the known ones are named.
    """
    if name not in bus.publishing:
        raise UsageError(f"there is no source {name}. The sources are: {', '.join(bus.publishing)}.")
    return bus.publishing[name].source


def validate(source: Source, path: Path, request: WebhookRequest) -> None:
    """Check a request as the gateway would.

    Raises:
        UsageError: it would be refused; every wrong field is named.
    """
    try:
        source.events(request)
    except Rejected as error:
        fields = "; ".join(f"{field}: {message}" for field, message in error.fields)
        raise UsageError(f"{path} would be refused: {error}{f' {fields}.' if fields else ''}") from None
