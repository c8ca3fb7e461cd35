"""A server on loopback that answers chat completions as a script says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USED = {"prompt_tokens": 321, "completion_tokens": 7, "total_tokens": 328}


@dataclass
class Reply:
    """One reply: an HTTP status with a body, or a stream of chunks.

    Attributes
    ----------
    hangs_up : the connection ends after the chunks, without the end of the stream
    gate : each chunk but the first waits for it
    """

    chunks: Sequence[Any] = ()
    status: int = 200
    body: Any = None
    hangs_up: bool = False
    gate: threading.Event | None = None


@dataclass
class Script:
    """Replies in their order, the last one again and again; and what was asked.

    Attributes
    ----------
    asked : bodies of the requests
    heads : their headers
    """

    replies: list[Reply]
    models: list[str] = field(default_factory=lambda: ["tiny"])
    asked: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def delta(finish: str | None = None, **given: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": given, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"} | {
        "choices": [choice]
    }


def says(*texts: str, finish: str = "stop", used: Any = USED) -> Reply:
    """A stream of texts, as servers end it."""
    chunks = [delta(role="assistant"), *(delta(content=text) for text in texts), delta(finish)]
    if used is not None:
        chunks.append({**delta(), "choices": [], "usage": used})
    return Reply(chunks=chunks)


def fails(status: int, message: str, **more: Any) -> Reply:
    return Reply(status=status, body={"error": {"message": message, "type": "error", **more}})


@contextmanager
def serving(script: Script) -> Iterator[Script]:
    """Serve `script` on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Nothing is logged."""

        def do_GET(self) -> None:
            listed = [{"id": name, "object": "model"} for name in script.models]
            self._send(200, {"object": "list", "data": listed})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            script.asked.append(json.loads(self.rfile.read(length)))
            script.heads.append({name.lower(): text for name, text in self.headers.items()})
            reply = script.next()
            if reply.body is not None or reply.status != 200:
                self._send(reply.status, reply.body)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for index, chunk in enumerate(reply.chunks):
                if index and reply.gate is not None:
                    reply.gate.wait(20)
                raw = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n"
                self._chunk(raw.encode())
            if reply.hangs_up:
                self.close_connection = True
                return
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _send(self, status: int, body: Any) -> None:
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            kind = "text/html" if isinstance(body, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            """A client that has gone is no error."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
