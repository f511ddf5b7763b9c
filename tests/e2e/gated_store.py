"""A small S3 server on a directory, whose objects a test can hold back, damage, hide, or make unreachable.

It speaks what a scorer asks for: GET of an object and ListObjectsV2. Every request is a real HTTP request on 127.0.0.1.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_BUCKET = "models"
_WHEN = "Sat, 01 Jan 2022 00:00:00 GMT"
_WHEN_ISO = "2022-01-01T00:00:00.000Z"


class GatedStore:
    """`directory`: what a `file://` store writes. Paths are those inside the store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._gates: dict[str, threading.Event] = {}
        self._damaged: dict[str, bytes | None] = {}
        self.asked: list[str] = []
        self.down = False
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL for a scorer."""
        return f"s3://{_BUCKET}?endpoint=http://127.0.0.1:{self._server.server_address[1]}&region=us-east-1"

    @contextmanager
    def holding(self, path: str) -> Iterator[None]:
        """Requests for this object wait until the end of the context."""
        gate = self._gates[path] = threading.Event()
        try:
            yield
        finally:
            del self._gates[path]
            gate.set()

    @contextmanager
    def answering(self, path: str, data: bytes | None) -> Iterator[None]:
        """Requests for this object get other bytes; None: it is missing."""
        self._damaged[path] = data
        try:
            yield
        finally:
            del self._damaged[path]

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Every request ends without an answer."""
        self.down = True
        try:
            yield
        finally:
            self.down = False

    def read(self, path: str) -> bytes | None:
        """The bytes to send; waits at the gate, if there is one."""
        self.asked.append(path)
        gate = self._gates.get(path)
        if gate is not None:
            gate.wait(60)
        if path in self._damaged:
            return self._damaged[path]
        file = self.directory / path
        return file.read_bytes() if file.is_file() else None

    def close(self) -> None:
        """Stop; lets go of all that waits."""
        for gate in list(self._gates.values()):
            gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: GatedStore

    def do_GET(self) -> None:
        if self.store.down:
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "list-type" in query:
            self._send(200, "application/xml", self._listing(query.get("prefix", "")).encode())
            return
        data = self.store.read(unquote(parts.path).removeprefix(f"/{_BUCKET}/"))
        if data is None:
            self._send(404, "application/xml", b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._send(200, "application/octet-stream", data)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", _WHEN)
        self.send_header("ETag", f'"{sha256(body).hexdigest()[:32]}"')
        self.end_headers()
        self.wfile.write(body)

    def _listing(self, prefix: str) -> str:
        folder = self.store.directory / prefix
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        files = [
            f"<Contents><Key>{escape(prefix + entry.name)}</Key><Size>{entry.stat().st_size}</Size>"
            f"<LastModified>{_WHEN_ISO}</LastModified></Contents>"
            for entry in entries
            if entry.is_file()
        ]
        folders = [
            f"<CommonPrefixes><Prefix>{escape(prefix + entry.name)}/</Prefix></CommonPrefixes>"
            for entry in entries
            if entry.is_dir()
        ]
        return "<ListBucketResult><IsTruncated>false</IsTruncated>" + "".join(files + folders) + "</ListBucketResult>"

    def log_message(self, *_args: object) -> None:
        """Quiet."""
