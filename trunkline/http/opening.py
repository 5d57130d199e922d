"""From a target's declaration to the way there."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from trunkline.errors import UsageError
from trunkline.flow.declare import Target
from trunkline.http.guard import Guard, Network, networks
from trunkline.http.proofs import OPEN
from trunkline.http.tokens import DEADLINE, prove
from trunkline.http.transport import Transport, is_address
from trunkline.redact import keep_password
from trunkline.settings import Env


def open_to(target: Target, *, allow: Sequence[Network], connections: int, deadline: float) -> Transport:
    """Prepare calls to a target; the operator lets it be in the networks `allow`, besides those that it names itself.

    Raises:
        UsageError: its address, a secret or a certificate is not set, or cannot be used; no value of one is shown.
    """
    url = address(target.url, f"that target {target.name} can be called at")
    if "@" in urlsplit(url).netloc:  # whoever prints such an address prints a secret, and some take a user for a host
        raise UsageError(f"{target.url.name} holds a user or password. Say auth=Basic(…) of target {target.name}.")
    proxy = None if target.proxy is None else address(target.proxy, f"of a proxy for target {target.name}")
    guard = Guard((*allow, *networks(target.allow)))

    def reach(at: str) -> Transport:
        return Transport(at, OPEN, guard=guard, tls=target.tls, proxy=proxy, connections=1, deadline=DEADLINE)

    proof = prove(target.auth, url, reach)
    return Transport(url, proof, guard=guard, tls=target.tls, proxy=proxy, connections=connections, deadline=deadline)


def address(setting: Env, what: str) -> str:
    """Read an address; a password in it is kept from everything that is said from now on.

    Raises:
        UsageError: it is not set, or is none.
    """
    url = setting.read()
    if not is_address(url):
        told = f"{setting.name} is no address {what}"
        raise UsageError(f"{told}. Set it to one such as https://api.example.com/v1, without a query.")
    keep_password(url)
    return url
