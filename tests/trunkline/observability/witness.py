"""A collector of OpenTelemetry and a target in one process: `python -m tests.trunkline.observability.witness FILE`.

It prints its address, and writes one line of JSON for every span that it is sent (OTLP over HTTP, decoded by
OpenTelemetry's own protocol) and for every call with the `traceparent` that came with it. A path with `refused` in it
is answered 422 until there is a file of that name beside FILE, one with `later` in it always 503; GET finds nothing.
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

FILE = Path(sys.argv[1])
LOCK = Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        status = 201
        if self.path == "/v1/traces":
            status = 200
            content = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
            note([told(span) for span in spans_of(content)])
        else:
            if "refused" in self.path and not (FILE.parent / "refused").exists():
                status = 422
            elif "later" in self.path:
                status = 503
            note([{"call": self.path, "traceparent": self.headers["traceparent"], "status": status}])
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Have nothing that is looked up, and tell that this will be so for ever one day."""
        self.send_response(404)
        self.send_header("content-length", "0")
        self.send_header("sunset", "Thu, 31 Dec 2099 23:59:59 GMT")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def spans_of(content: bytes) -> list[Any]:
    """Decode an export."""
    sent = ExportTraceServiceRequest.FromString(content)
    return [span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans]


def told(span: Any) -> dict[str, Any]:
    """Give what matters of a span."""
    return {
        "span": span.name,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "kind": span.kind,
        "links": [f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in span.links],
        "status": span.status.code,
        "attributes": {one.key: one.value.string_value or one.value.int_value for one in span.attributes},
    }


def note(lines: list[dict[str, Any]]) -> None:
    """Write lines."""
    with LOCK, FILE.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
