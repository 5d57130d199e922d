"""The command `python -m trunkline.dev.target`."""

import argparse
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from trunkline.dev.target.apis import Apis
from trunkline.dev.target.records import Records
from trunkline.dev.target.requirement import read_requirement
from trunkline.dev.target.server import Server


def main() -> None:
    """Serve until SIGTERM or SIGINT; exit 2 when the port is taken or the file is no database."""
    parser = argparse.ArgumentParser(
        prog="python -m trunkline.dev.target",
        description="Stand for remote APIs; @FILE stands for arguments, one a line.",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--database", type=Path, required=True, help="the SQLite file that witnesses read")
    parser.add_argument(
        "--require",
        type=read_requirement,
        action="append",
        default=[],
        metavar="NAME:HEADER:VALUE",
        help="answer 401 to requests of this API without this header; repeatable",
    )
    arguments = parser.parse_args()
    try:
        listener = socket.create_server(("127.0.0.1", arguments.port))
    except (OSError, OverflowError):
        parser.exit(
            2, f"target: port {arguments.port} is taken, or not ours to take. Choose another with --port, or 0.\n"
        )
    try:
        records = Records(arguments.database)
    except (OSError, sqlite3.Error) as error:
        parser.exit(2, f"target: {arguments.database} cannot be used ({error}). Choose another with --database.\n")
    # uvicorn raises the signal again once it has stopped; by then there is nothing left to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with closing(records), listener:
        Server(Apis(records, arguments.require)).run(sockets=[listener])


if __name__ == "__main__":
    main()
