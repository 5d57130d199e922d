"""The server: its APIs and, below /_control, how they are broken, healed and counted."""

import socket

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from trunkline.dev.target.answers import json_response, problem
from trunkline.dev.target.apis import Apis
from trunkline.dev.target.behaviour import BEHAVIOUR, BEHAVIOURS
from trunkline.dev.target.connection import Connection
from trunkline.dev.target.records import STATS


class Control:
    """The endpoints below /_control."""

    def __init__(self, apis: Apis) -> None:
        self._apis = apis

    async def add(self, request: Request) -> Response:
        """Break an API; 422 when the behaviour makes no sense."""
        try:
            behaviour = BEHAVIOUR.validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            return problem(422, f"{'.'.join(map(str, first['loc'])) or 'the behaviour'}: {first['msg']}.")
        return json_response({"id": self._apis.add(behaviour)}, 201)

    async def show(self, _: Request) -> Response:
        """List what is wrong, by id."""
        active = {number: active.behaviour for number, active in self._apis.active.items()}
        return Response(BEHAVIOURS.dump_json(active), media_type="application/json")

    async def heal(self, request: Request) -> Response:
        """Heal one API."""
        name = request.query_params.get("name")
        if name is None:
            return problem(
                422, "Name the API to heal: ?name=NAME. POST /_control/reset heals all and empties the tables."
            )
        return json_response({"healed": self._apis.heal(name)})

    def stats(self, _: Request) -> Response:
        """Count per API; no coroutine, so that counting many rows happens in a thread and not in the loop."""
        found = self._apis.records.stats()
        for name, most in self._apis.max_in_flight.copy().items():
            now = self._apis.in_flight.get(name, 0)
            found[name] = {**found.get(name, {}), "in_flight": now, "max_in_flight": most}
        return Response(STATS.dump_json(STATS.validate_python(found)), media_type="application/json")

    async def reset(self, _: Request) -> Response:
        """Heal all, forget all."""
        await self._apis.clear()
        return json_response({})


def application(apis: Apis) -> Starlette:
    """Give the whole server: the control endpoints, and every other path as an API."""
    control = Control(apis)
    return Starlette(
        routes=[
            Mount(
                "/_control",
                routes=[
                    Route("/behaviours", control.show, methods=["GET"]),
                    Route("/behaviours", control.add, methods=["POST"]),
                    Route("/behaviours", control.heal, methods=["DELETE"]),
                    Route("/stats", control.stats, methods=["GET"]),
                    Route("/reset", control.reset, methods=["POST"]),
                ],
            ),
            Mount("", app=apis),
        ]
    )


class Server(uvicorn.Server):
    """uvicorn, saying when it is ready and cutting what hangs before it stops."""

    def __init__(self, apis: Apis) -> None:
        super().__init__(
            uvicorn.Config(
                application(apis),
                http=Connection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=75,  # 5 s, the default, cuts idle connections of clients: a fault nobody asked for
                timeout_graceful_shutdown=10,
            )
        )
        self._apis = apis

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, then say where."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()
            print(f"target http://{host}:{port}", flush=True)  # noqa: T201 - the line that `start` waits for

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is answered; what hangs would never be."""
        self._apis.heal()
        await super().shutdown(sockets)
