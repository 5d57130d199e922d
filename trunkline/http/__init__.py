"""HTTP to targets; knows no business and no Kafka."""

import os

# pyreqwest's allocator keeps for a second what has become free, so for ever under load: 10 MiB with 512 connections.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "1")
