"""A Hub on loopback: what huggingface.co answers, and the ways in which a network fails.

The Hub is at 127.0.0.1; large files are redirected to `localhost`, another host to those who compare names.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class FakeHub(ThreadingHTTPServer):
    """Serves ``repos = {"org/name": {file name: bytes}}``; what goes wrong is set on the instance."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos = {}
        self.log = []  # (method, host, path, range, whether a token came along)
        self.drops = 0  # this many transfers of large files break off halfway
        self.busy = 0  # this many requests are answered 429
        self.gated = False
        self.garbled = False
        self.ignores_ranges = False
        self.slow = 0.0  # seconds between pieces
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def requests(self, part):
        return [entry for entry in self.log if part in entry[2]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub, path = self.server, unquote(self.path)
        host = self.headers["Host"].split(":")[0]
        hub.log.append((self.command, host, path, self.headers.get("Range"), "Authorization" in self.headers))
        if hub.busy:
            hub.busy -= 1
            return self.reply(429, b"", {"Retry-After": "0"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            return self.listing(*found.groups())
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file(*found.groups())
        if found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            return self.body(hub.repos[found[1]][found[2]], large=True)
        return self.reply(404, b"")

    def listing(self, repo, revision):
        hub = self.server
        if repo not in hub.repos:
            return self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        if hub.gated and self.headers.get("Authorization") != "Bearer secret":
            return self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
        if revision not in ("main", "refs/pr/1", COMMIT):
            return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in [".gitattributes", *hub.repos[repo], "onnx/model.onnx"]]
        return self.reply(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())

    def file(self, repo, revision, name):
        data = self.server.repos.get(repo, {}).get(name)
        if data is None or revision not in ("main", COMMIT):
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        stated = {"X-Repo-Commit": COMMIT}
        if name.endswith(".safetensors"):
            stated["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            stated["X-Linked-Size"] = str(len(data))
            stated["Location"] = f"http://localhost:{self.server.server_port}/cdn/{repo}/{name}"
            return self.reply(302, b"", stated)
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return self.body(data, stated | {"ETag": f'W/"{git}"'})

    def body(self, data, headers=None, large=False):
        hub, headers = self.server, headers or {}
        if large and hub.garbled:
            data = data[:-1] + bytes([data[-1] ^ 1])
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not found or (large and hub.ignores_ranges):
            return self.reply(200, data, headers, large)
        first, last = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            return self.reply(416, b"")
        stated = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self.reply(206, data[first : last + 1], headers | stated, large)

    def reply(self, status, data, headers=None, large=False):
        hub = self.server
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if large and hub.drops and len(data) > 200_000:
            hub.drops -= 1
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        try:
            for at in range(0, len(data), 65_536):
                self.wfile.write(data[at : at + 65_536])
                if large and hub.slow:
                    threading.Event().wait(hub.slow)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
