"""The ports that are listened at."""

import socket

from trunkline.errors import UsageError


def bind(host: str, port: int) -> socket.socket:
    """Take a port before anything starts.

    Raises:
        UsageError: it is taken, or cannot be.
    """
    try:
        return socket.create_server((host, port), backlog=2048, reuse_port=False)
    except (OSError, OverflowError) as error:
        # Python says the address once more.
        why = str(error.strerror).partition(" (while ")[0] if isinstance(error, OSError) else "there is no such port"
        raise UsageError(
            f"port {port} of {host} cannot be taken: {why}. Set TRUNKLINE_GATEWAY__PORT to a free one, or 0."
        ) from None
