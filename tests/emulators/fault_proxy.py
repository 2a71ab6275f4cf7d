"""A proxy before an emulator that spoils requests as it is told."""

import dataclasses
import http.client
import io
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.emulators.loopback import LoopbackServer

_NOT_COPIED = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


@dataclasses.dataclass
class Fault:
    """What happens to the next requests of a kind.

    Attributes:
      kind: `fail` (answered with `status` and not carried out), `reset` (the connection is, and
        nothing is carried out), `stall` (no answer, and nothing is carried out), `late` (answered
        after half a second), `cut` (half of the answer's body), `lost` (carried out, and the
        answer lost).
      method: `GET`, `PUT` and so on.
      match: a pattern that the request's path and query hold.
      times: how many requests.
      status: of `fail`.
      body: of `fail`.
    """

    kind: str
    method: str
    match: str = ""
    times: int = 1
    status: int = 503
    body: bytes = b""


class FaultProxy:
    """Stands before `upstream` at `url`; spoils requests as `faults`, then `spoil`, tell."""

    def __init__(self, upstream):
        self.upstream = urlsplit(upstream)
        self.faults = []
        self.spoil = lambda method, path: None  # returns the fault of any request, or None
        self.requests = []  # (method, path, the Range header)
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = LoopbackServer(handler)
        self.url = self._server.url

    def stop(self):
        self.stopped.set()
        self._server.stop()

    def add(self, kind, method, match="", **options):
        self.faults.append(Fault(kind, method, match, **options))

    def take(self, method, path, asked_range):
        """Returns the fault of a request, None if it is spared."""
        with self._lock:
            self.requests.append((method, path, asked_range))
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.match, path):
                    fault.times -= 1
                    return fault
            return self.spoil(method, path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def log_message(self, *args):
        pass

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.take(self.command, self.path, self.headers.get("Range"))
        kind = fault.kind if fault else None
        if kind == "stall":
            self.proxy.stopped.wait(30)
        if kind in ("stall", "reset"):
            self._reset()
        elif kind == "fail":
            self._answer(fault.status, {}, fault.body)
        else:
            status, headers, answer = self._forward(body)
            if kind == "late":
                time.sleep(0.5)
            if kind == "lost":
                self._reset()
            else:
                self._answer(status, headers, answer, is_cut=kind == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _forward(self, body):
        upstream = self.proxy.upstream
        connection = http.client.HTTPConnection(upstream.hostname, upstream.port)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in _NOT_COPIED}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.getheader("Content-Length", "0")
        connection.close()
        return answer.status, headers, data

    def _answer(self, status, headers, body, is_cut=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self.wfile.flush()
            self.close_connection = True

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.wfile = io.BytesIO()  # for the handler to flush
