"""As much of the Hugging Face hub as an upload of a folder asks for, on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What a client asked for and has uploaded. It refuses tokens but "hf_valid"."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.created: list[dict] = []
        self.cards: list[str] = []        # that were to be validated
        self.files: dict[str, bytes] = {}  # of the last commit
        self.stored: dict[str, bytes] = {}  # by SHA-256
        self.address = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict]:
        self.asked.append(f"{method} {path}")
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            asked = self.created[-1]
            return 200, {"url": f"{self.address}/{asked['type']}s/{asked['organization']}/{asked['name']}"}
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            return 200, {"files": [{"path": file["path"], "shouldIgnore": False,
                                    "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular"}
                                   for file in json.loads(body)["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.address}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]]}
        if method == "PUT" and path.startswith("/store/"):
            self.stored[path.removeprefix("/store/")] = body
            return 200, {}
        if "/commit/" in path:
            for line in body.splitlines():
                told = json.loads(line)
                if told["key"] == "file":
                    self.files[told["value"]["path"]] = base64.b64decode(told["value"]["content"])
                elif told["key"] == "lfsFile":
                    self.files[told["value"]["path"]] = self.stored[told["value"]["oid"]]
            return 200, {"commitUrl": f"{self.address}/datasets/o/n/commit/1", "commitOid": "1", "success": True}
        return 404, {"error": f"not known here: {path}"}


@contextmanager
def local_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            signed = self.headers.get("Authorization") == "Bearer hf_valid" or path.startswith("/store/")
            status, content = hub.answer(self.command, path, body) if signed else (401, {"error": "Invalid token"})
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
