"""An S3 store on loopback, and a line to it that can drop."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class Store:
    """A store with a bucket; its address is `endpoint_url`."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()
        self.endpoint_url = f"http://{self.host}:{self.port}"
        self.post("/moto-api/reset", "")  # what another store of this process held
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        self.client.create_bucket(Bucket="bucket")

    def upload(self, path: Path | str, key: str) -> str:
        """Copy a file into the bucket; returns its URI."""
        self.client.put_object(Bucket="bucket", Key=key, Body=Path(path).read_bytes())
        return f"s3://bucket/{key}"

    def post(self, path: str, body: str) -> None:
        """Speak to the stand-in itself."""
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.request("POST", path, body)
        assert connection.getresponse().status == 200
        connection.close()

    def stop(self) -> None:
        self._server.stop()


class Line:
    """A way to a store that notes what went through whole, and that can be cut and mended.

    Attributes:
        read: (path, range) of every answer to a GET that was handed on whole.
        stalls: an answer stops after its first bytes until the line is cut.
        begun: an answer has begun.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read: list[tuple[str, str | None]] = []
        self.stalls = False
        self.begun, self._was_cut = threading.Event(), threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = self._listen(0)
        self._port = self._server.server_port
        self.endpoint_url = f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Close all connections, in the middle of what they carry, and refuse others."""
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._was_cut.set()

    def mend(self) -> None:
        """Take connections again, and stall no more."""
        self.stalls = False
        self._server = self._listen(self._port)

    def _listen(self, port: int) -> ThreadingHTTPServer:
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with line._lock:
                    line._open.add(self.connection)

            def finish(self) -> None:
                with line._lock:
                    line._open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def _pass_on(self) -> None:
                connection = http.client.HTTPConnection(line._store.host, line._store.port)
                connection.request(self.command, self.path, headers=dict(self.headers))
                answer = connection.getresponse()
                body = answer.read()
                connection.close()
                with contextlib.suppress(OSError):  # the line was cut
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("connection", "transfer-encoding", "date"):
                            self.send_header(name, value)
                    self.end_headers()
                    if self.command == "GET":
                        self.wfile.write(body[:1000])
                        line.begun.set()
                        if line.stalls:
                            line._was_cut.wait(30)
                        self.wfile.write(body[1000:])
                        line.read.append((self.path, self.headers.get("Range")))

            do_GET = do_HEAD = _pass_on

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.daemon_threads = True
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    store = Store()
    try:
        yield store
    finally:
        store.stop()
