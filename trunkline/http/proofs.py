"""What a call carries so that its target knows us.

A target at rest costs nothing: `fixed` and `query` are put into the client once, and only a proof that `signs` is asked
about each call. After a 401 it is asked whether other credentials stand ready.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol

from trunkline.errors import Halt, Unavailable

NOTHING: Mapping[str, str] = MappingProxyType({})


class NoToken(Unavailable):
    """There are no credentials to call with now, and nothing was sent; `after` is seconds until asking may help."""

    def __init__(self, message: str, *, after: float) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True, slots=True)
class Signature:
    """The headers that prove one call, their names in lower case; `by` says whose they are, to the proof alone."""

    headers: Mapping[str, str] = field(repr=False)
    by: Any = field(default=None, repr=False)


NO_SIGNATURE = Signature(NOTHING)


class Proof(Protocol):
    """The credentials of one target at run time."""

    @property
    def fixed(self) -> Mapping[str, str]:
        """The headers that never change."""
        ...

    @property
    def query(self) -> Mapping[str, str]:
        """The query parameters that never change, not yet percent-encoded."""
        ...

    @property
    def signs(self) -> bool:
        """Whether a call has to be signed at all."""
        ...

    def ready(self) -> Signature | None:
        """Give what proves any call now; None where it has to be waited for, or is made of the call."""
        ...

    async def sign(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Signature:
        """Prove one call, which is sent exactly so.

        `path` is path and query as on the request line, `headers` are all others by their names in lower case, `body`
        is the bytes that are sent. A header given here replaces the call's own of that name.

        Raises:
            NoToken: there is nothing to prove it with now.
            Halt: there will be nothing until a person has acted.
        """
        ...

    async def refused(self, signature: Signature) -> bool:
        """After a 401 say whether there are other credentials now, so that the same call may be made once more.

        Raises:
            NoToken, Halt: as `sign`.
        """
        ...

    async def close(self) -> None:
        """Let everything go."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Credentials that are the same in every call, or none at all."""

    fixed: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    signs: bool = field(default=False, init=False)

    def ready(self) -> Signature | None:
        """Add nothing."""
        return NO_SIGNATURE

    async def sign(self, _method: str, _path: str, _headers: Mapping[str, str], _body: bytes) -> Signature:
        """Add nothing."""
        return NO_SIGNATURE

    async def refused(self, _signature: Signature) -> bool:
        """Have no others."""
        return False

    async def close(self) -> None:
        """Hold nothing."""


OPEN = Fixed()
"""Of a target that asks for nothing."""

Write = Callable[[str, str, Mapping[str, str], bytes, datetime], Mapping[str, str]]
"""Method, path, headers, body and the time to the headers of a signature: a pure function."""


def utc() -> datetime:
    """Give the time."""
    return datetime.now(UTC)


class Signing:
    """A signature of each call, made with secrets that never change."""

    fixed = query = NOTHING
    signs = True

    def __init__(self, write: Write, clock: Callable[[], datetime] = utc) -> None:
        self._write = write
        self._clock = clock

    def ready(self) -> Signature | None:
        """Sign no call before it is there."""
        return None

    async def sign(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Signature:
        """Write the signature of now."""
        return Signature(self._write(method, path, headers, body, self._clock()))

    async def refused(self, _signature: Signature) -> bool:
        """Have no others."""
        return False

    async def close(self) -> None:
        """Hold nothing."""


class Rotating:
    """Two proofs of which one is used, until it is refused."""

    fixed = query = NOTHING
    signs = True

    def __init__(self, first: Proof, second: Proof) -> None:
        self._using, self._other = first, second

    def ready(self) -> Signature | None:
        """Give what the one in use has ready."""
        using = self._using
        signature = using.ready()
        return None if signature is None else self._of(using, signature)

    async def sign(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Signature:
        """Sign with the one in use, and with the other one when that has nothing to sign with any more."""
        using = self._using
        try:
            signature = await using.sign(method, path, headers, body)
        except Halt:
            using = self._turn_from(using)
            signature = await using.sign(method, path, headers, body)
        return self._of(using, signature)

    async def refused(self, signature: Signature) -> bool:
        """Let the proof renew what was refused, else use the other one from now on."""
        using, inner = signature.by
        try:
            if await using.refused(inner):
                return True
        except Halt:
            pass
        self._turn_from(using)
        return True

    async def close(self) -> None:
        """Let both go."""
        await self._using.close()
        await self._other.close()

    def _of(self, using: Proof, signature: Signature) -> Signature:
        return Signature({**using.fixed, **signature.headers}, (using, signature))

    def _turn_from(self, refused: Proof) -> Proof:
        if self._using is refused:
            self._using, self._other = self._other, self._using
        return self._using
