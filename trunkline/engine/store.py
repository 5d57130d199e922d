"""The rows of one table on disk, and how far its topic was read into them: never one without the other.

What is there is only a copy. When it is damaged, of another topic or too old, it is thrown away and read again.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trunkline.errors import Unavailable
from trunkline.kafka.changes import Identity

FORM = 1
"""The way in which rows are kept; another one is not read."""
ABOUT = b"about"
ROW = b"="
"""What the key of a row begins with on disk."""
AFTER_ROWS = b">"
BUFFERED = 8 * 1024 * 1024
"""Bytes that are written to memory and log before a file is made of them."""
CACHED = 8 * 1024 * 1024
"""Bytes of files that are kept in memory."""


class Damaged(Exception):  # noqa: N818 - what has happened to the rows
    """What is on disk is not what was written."""


class Store:
    """An open store; one thread writes, any thread reads."""

    def __init__(self, folder: Path) -> None:
        """Open what is in the folder; it is made where it is missing.

        Raises:
            Damaged: it cannot be read.
            Unavailable: another process has it open, or the folder cannot be written.
        """
        import rocksdict  # noqa: PLC0415 - 8 MiB that a worker without tables does not spend

        self._folder = folder
        self._batch = rocksdict.WriteBatch
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(rocksdict.Cache(CACHED))
        table.set_bloom_filter(10, False)
        options = rocksdict.Options(raw_mode=True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(BUFFERED)
        options.set_keep_log_file_num(1)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whole rows, sensitive fields too
            self._db = rocksdict.Rdict(str(folder), options=options)
        except OSError as error:
            raise Unavailable(
                f"{folder} cannot be written: {error.strerror}. Set TRUNKLINE_STATE to a folder."
            ) from None
        except Exception as error:  # noqa: BLE001 - RocksDB has no exceptions of its own
            if "LOCK:" in str(error):
                told = "another process has the rows of its tables open; give each its own TRUNKLINE_WORKER__SLOT"
                raise Unavailable(f"{folder}: {told}") from None
            raise Damaged(str(error)) from None
        self.count = 0
        self.position: dict[int, int] = {}
        self.read_at = 0.0
        """Epoch seconds at which everything before `position` was here."""
        self._identity: list[Any] = []
        try:
            self._open()
        except Damaged:
            self._db.close()
            raise

    def _open(self) -> None:
        about = self._get(ABOUT)
        if about is None:
            if next(self._keys(b""), None) is not None:
                raise Damaged("nothing says whose rows these are")
            return
        try:
            found = json.loads(about)
            if found["form"] != FORM:
                raise Damaged(f"the rows are kept in form {found['form']}")
            self._identity = found["identity"]
            self.position = {int(number): int(offset) for number, offset in found["position"].items()}
            self.count, self.read_at = int(found["count"]), float(found["read_at"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"what is said of the rows cannot be read: {error}") from None

    def is_of(self, identity: Identity) -> bool:
        """Say whether the rows are of this topic."""
        return self._identity == list(identity)

    def get(self, key: bytes) -> bytes | None:
        """Give the value of a row, None when there is none.

        Raises:
            Damaged: it cannot be read.
        """
        return self._get(ROW + key)

    def keys(self) -> Iterator[bytes]:
        """Yield the key of every row.

        Raises:
            Damaged: they cannot be read.
        """
        return (key.removeprefix(ROW) for key in self._keys(ROW) if key < AFTER_ROWS)

    def apply(
        self, changes: Mapping[bytes, bytes | None], identity: Identity, position: Mapping[int, int], now: float
    ) -> None:
        """Write rows, and with them that everything before `position` is here now; a value of None deletes.

        Raises:
            Damaged: it cannot be written.
        """
        batch = self._batch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(ROW + key)
            else:
                batch.put(ROW + key, value)
        try:
            there = self._db.get([ROW + key for key in changes]) if changes else []
            count = self.count + sum(
                (new is not None) - (old is not None) for new, old in zip(changes.values(), there or [], strict=True)
            )
            about = {"form": FORM, "identity": identity, "position": position, "count": count, "read_at": now}
            batch.put(ABOUT, json.dumps(about).encode())
            self._db.write(batch)
        except Exception as error:  # noqa: BLE001 - RocksDB has no exceptions of its own
            raise Damaged(str(error)) from None
        self._identity, self.position, self.count, self.read_at = list(identity), dict(position), count, now

    @property
    def size(self) -> int:
        """Bytes of files and of what is still in memory."""
        names = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        return sum(self._db.property_int_value(name) or 0 for name in names)

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()

    def _get(self, key: bytes) -> bytes | None:
        try:
            found: bytes | None = self._db.get(key)
        except Exception as error:  # noqa: BLE001 - RocksDB has no exceptions of its own
            raise Damaged(str(error)) from None
        return found

    def _keys(self, begin: bytes) -> Iterator[bytes]:
        try:
            for key in self._db.keys(from_key=begin):
                if isinstance(key, bytes):
                    yield key
        except Exception as error:  # noqa: BLE001 - RocksDB has no exceptions of its own
            raise Damaged(str(error)) from None


def discard(folder: Path) -> None:
    """Throw away what is in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
