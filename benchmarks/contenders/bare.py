"""The ceiling: the loop without safety on the clients that Trunkline uses, librdkafka and pyreqwest."""

import uvloop
from pyreqwest.client import ClientBuilder

from benchmarks.contenders import lanes
from benchmarks.contenders.wire import CONCURRENCY, EVENTS_URL


async def main() -> None:
    """Run until killed."""
    async with ClientBuilder().pool_max_idle_per_host(CONCURRENCY).build() as client:

        async def call(key: str, body: bytes) -> None:
            headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
            answer = await client.post(EVENTS_URL).headers(headers).body_bytes(body).build().send()
            assert answer.status == 200
            await answer.bytes()

        await lanes.deliver(call)


if __name__ == "__main__":
    uvloop.run(main())
