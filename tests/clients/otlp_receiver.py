"""A receiver of traces by OTLP over HTTP, on the official schema (opentelemetry-proto). It prints its URL as JSON,
then a line of JSON for each request: its path, its headers, the resource and the spans. A field that the schema does not
have is an error, which is printed instead. It exits when its stdin closes.

Usage: python otlp_receiver.py
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

LOCK = threading.Lock()


def check(message):
    """Raises an error if a message, or one within it, has a field that is not in the schema."""
    if len(UnknownFieldSet(message)):
        raise ValueError(f"unknown fields in {message.DESCRIPTOR.name}")
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                check(inner)


def attributes(pairs):
    values = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
    if len(values) < len(pairs):
        raise ValueError("an attribute is there twice")
    return values


def shown(span):
    if len(span.trace_id) != 16 or len(span.span_id) != 8 or len(span.parent_span_id) not in (0, 8):
        raise ValueError("an id has the wrong length")
    return {
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "state": span.trace_state,
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "flags": span.flags,
        "attributes": attributes(span.attributes),
        "links": [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
        "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
        "message": span.status.message,
    }


def decoded(body):
    request = ExportTraceServiceRequest.FromString(body)
    check(request)
    [of_resource] = request.resource_spans
    [of_scope] = of_resource.scope_spans
    return {
        "resource": attributes(of_resource.resource.attributes),
        "scope": of_scope.scope.name,
        "spans": [shown(span) for span in of_scope.spans],
    }


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            line = decoded(body)
        except Exception as error:
            line = {"error": str(error)}
        line |= {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        with LOCK:
            print(json.dumps(line), flush=True)
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps(f"http://127.0.0.1:{server.server_port}"), flush=True)
sys.stdin.read()
