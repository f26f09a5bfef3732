"""A stand-in for the model hub: as much of its protocol as fetching and uploading need."""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves folders as repositories.

    Args:
        repositories: folder by id.

    Attributes:
        gated: ids that need `token`.
        private: ids that are told of only to who has `token`.
        token: what opens them.
        takes_ranges: whether parts of files can be asked for.
        cut_after: bytes of a file after which a connection is broken, once for each entry.
        served: bytes sent, by path in the repository.
        root: folder in which new repositories are made; None: nobody may write.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.token = "hf_secret"
        self.takes_ranges = True
        self.cut_after: list[int] = []
        self.served: Counter[str] = Counter()
        self.root: Path | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_POST(self) -> None:
                hub.take(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = request.path.partition("?")[0]
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        repository = (match or resolve)[1] if match or resolve else ""
        opened = request.headers.get("Authorization") == f"Bearer {self.token}"
        if repository not in self.repositories or (repository in self.private and not opened):
            return self._refuse(request, 401, "RepoNotFound")
        if resolve and repository in self.gated and not opened:
            return self._refuse(request, 403, "GatedRepo")
        folder = self.repositories[repository]
        if resolve is None:
            listing = match is not None and match[2] == "tree"
            return self._send(request, self._describe(repository, folder, listing), with_body)
        if not (folder / resolve[2]).is_file():
            return self._refuse(request, 404, "EntryNotFound")
        self._send_file(request, folder / resolve[2], with_body)

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """Answer what an upload asks: a new repository, what to send, and the commit itself."""
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if request.path == "/api/validate-yaml":
            return self._send(request, b'{"errors": [], "warnings": []}', True)
        opened = request.headers.get("Authorization") == f"Bearer {self.token}"
        if self.root is None or not opened:
            return self._refuse(request, 401, "")
        answer: dict[str, object]
        if request.path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            self.repositories.setdefault(name, self.root / told["name"]).mkdir(exist_ok=True)
            answer = {"url": f"{self.endpoint}/{name}", "id": name, "name": name}
            return self._send(request, json.dumps(answer).encode(), True)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", request.path)
        if match is None or match[1] not in self.repositories:
            return self._refuse(request, 404, "RepoNotFound")
        if match[2] == "preupload":
            kept = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            files = [{"path": file["path"], **kept} for file in json.loads(body)["files"]]
            return self._send(request, json.dumps({"files": files}).encode(), True)
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                path = self.repositories[match[1]] / line["value"]["path"]
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        answer = {"commitUrl": f"{self.endpoint}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT}
        self._send(request, json.dumps({**answer, "success": True}).encode(), True)

    def _describe(self, repository: str, folder: Path, listing: bool) -> bytes:
        files = [(path.name, path.stat().st_size) for path in sorted(folder.iterdir())]
        if listing:
            rows = [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in files]
            return json.dumps(rows).encode()
        siblings = [{"rfilename": name, "size": size} for name, size in files]
        card = {"license": "cc0-1.0"}
        found = {"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": card}
        return json.dumps(found).encode()

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, with_body: bool) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def _send_file(self, request: BaseHTTPRequestHandler, path: Path, with_body: bool) -> None:
        body = path.read_bytes()
        whole = len(body)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        is_part = wanted is not None and with_body and self.takes_ranges
        if is_part:
            start, end = int(wanted[1]), int(wanted[2] or whole - 1)
            body = body[start : end + 1]
        request.send_response(206 if is_part else 200)
        if is_part:
            request.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{whole}")
        request.send_header("ETag", f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if not with_body:
            return
        if self.cut_after and len(body) > self.cut_after[0]:
            body = body[: self.cut_after.pop(0)]
            request.close_connection = True
        self.served[path.name] += len(body)
        request.wfile.write(body)
