"""The loop without safety as most people would write it: librdkafka and httpx."""

import httpx
import uvloop

from benchmarks.contenders import lanes
from benchmarks.contenders.wire import CONCURRENCY, EVENTS_URL


async def main() -> None:
    """Run until killed."""
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:

        async def call(key: str, body: bytes) -> None:
            headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
            (await client.post(EVENTS_URL, content=body, headers=headers)).raise_for_status()

        await lanes.deliver(call)


if __name__ == "__main__":
    uvloop.run(main())
