"""How an API is told to misbehave."""

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import ConfigDict, Field, TypeAdapter

from trunkline.dev.target.call import member


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Behaviour:
    """How an API misbehaves until it is healed.

    name: the API, the first path segment.
    match: which requests: a glob on the path below /NAME ("/things/7/*"), or "field=glob" on a field of a JSON body.
    status: refuse so, without applying; with `body` (JSON, or a string as plain text), by default a problem+json whose
        sentence is `detail`; `retry_after` (whole seconds) becomes the header, as an HTTP date when `dated`, and so
        does `location`.
    hang: hold the request for so many seconds and then go on, or for ever. Healing cuts what is held; so does a client
        that leaves, unless the API is `deaf`: it goes on with what nobody waits for any more.
    reset: close the TCP connection abruptly (RST) instead of answering.
    latency_ms: hold the answer, whatever it is, once it is decided.
    drip_ms: send the answer's body byte by byte, with so many milliseconds before each.
    size: fill the answer's body up to so many bytes, or without end; `gzip` sends it compressed, a thousandth of that.
    honour_keys: False applies every request, repeats included.
    stores: honour no key and keep the last body of each path; this field of a JSON body is its version.
    rate: the probability that it happens to a matching request; the same requests draw the same chances in every run.
    per_second: spare the first so many matching requests of every second.
    after_apply: apply the effect before it fails.

    When several match, latencies add up, and the one added first decides how a request fails or its answer is sent.

    Raises:
        pydantic.ValidationError: a value is out of range, or the values together do nothing or contradict each other.
    """

    name: Annotated[str, Field(pattern=r"^[^/_][^/]*$")]
    match: Annotated[str, Field(pattern=r"^[/*]|=")] = "*"
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    detail: str = "This API was told to refuse the request."
    body: Any = None
    retry_after: Annotated[int, Field(ge=0)] | None = None
    dated: bool = False
    location: str | None = None
    hang: Annotated[float, Field(gt=0)] | Literal["forever"] | None = None
    deaf: bool = False
    reset: bool = False
    latency_ms: Annotated[float, Field(ge=0)] = 0
    drip_ms: Annotated[float, Field(ge=0)] = 0
    size: Annotated[int, Field(gt=0)] | Literal["endless"] | None = None
    gzip: bool = False
    honour_keys: bool = True
    stores: str | None = None
    rate: Annotated[float, Field(ge=0, le=1)] = 1
    per_second: Annotated[int, Field(gt=0)] | None = None
    after_apply: bool = False

    def __post_init__(self) -> None:
        if not (self.fails or self.shapes or self.latency_ms or self.stores or not self.honour_keys):
            raise ValueError(
                "does nothing: give status, hang, reset, latency_ms, drip_ms, size, stores or honour_keys=False"
            )
        if self.reset and (self.status is not None or self.shapes):
            raise ValueError("reset gives no answer, so it has no status, drip_ms or size")
        for name, needs, given in (
            ("dated", "retry_after", self.retry_after is not None),
            ("deaf", "hang", self.hang is not None),
            ("gzip", "size", self.size is not None),
        ):
            if getattr(self, name) and not given:
                raise ValueError(f"{name} is about {needs}, which is not given")

    @property
    def fails(self) -> bool:
        """Whether it does more than to slow an answer down or to change its shape."""
        return self.status is not None or self.hang is not None or self.reset

    @property
    def shapes(self) -> bool:
        """Whether the answer's body is sent in an odd way."""
        return self.drip_ms > 0 or self.size is not None

    def matches(self, path: str, body: bytes) -> bool:
        """Tell whether a request of this API is meant; a body that is no JSON object has no fields."""
        if self.match.startswith(("/", "*")):
            return fnmatchcase(path, self.match)
        name, _, wanted = self.match.partition("=")
        found = member(body, name)
        return found is not None and fnmatchcase(str(found), wanted)


BEHAVIOUR = TypeAdapter(Behaviour)
BEHAVIOURS = TypeAdapter(dict[int, Behaviour])
