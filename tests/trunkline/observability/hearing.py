"""What the witness was told, and what makes it hear something."""

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.trunkline.support import Stage
from trunkline.deadletter import replayed
from trunkline.flow.declare import replay_of
from trunkline.ledger import reach, runs
from trunkline.settings import Ledger, Secret
from trunkline.sources import StandardWebhooks


@dataclass
class Witness:
    """What the collector and target have been sent."""

    url: str
    file: Path

    def lines(self) -> list[dict[str, Any]]:
        """Give what it has written; the last line may be under way."""
        written, _, _ = self.file.read_text().rpartition("\n") if self.file.exists() else ("", "", "")
        return [json.loads(line) for line in written.splitlines()]

    def calls(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "call" in line]

    def spans(self, what: str = "") -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("span", "").startswith(what) and "span" in line]

    def forgive(self) -> None:
        (self.file.parent / "refused").touch()


def post(url: str, data: Any, **headers: str) -> httpx.Response:
    content = json.dumps(data, default=str).encode()
    signature = StandardWebhooks(Secret("DESK_SECRET")).sign(data["note_id"], content)
    return httpx.post(f"{url}/in/desk", content=content, headers={**signature, **headers}, timeout=60)


def replay(stage: Stage, flow: str, key: str) -> None:
    """Send the dead letter of a key again."""
    with closing(reach(Ledger(path=stage.ledger)).connect()) as db, db.transaction():
        runs.begin(db, "live", "shelf", 1, datetime.now(UTC))
    letter = next(one for one in stage.letters(flow) if one.key == key.encode())
    headers = replayed(tuple(letter.headers), "live")
    stage.send([(replay_of(flow), letter.key, letter.value, headers, letter.partition)])
