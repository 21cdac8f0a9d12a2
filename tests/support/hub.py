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
        for part, respond in {"/api/repos/create": self.create, "/api/validate-yaml": self.validate,
                              "/preupload/": self.modes, "/info/lfs/objects/batch": self.places,
                              "/commit/": self.commit}.items():
            if part in path:
                return 200, respond(body)
        if method == "PUT" and path.startswith("/store/"):
            self.stored[path.removeprefix("/store/")] = body
            return 200, {}
        return 404, {"error": f"not known here: {path}"}

    def create(self, body: bytes) -> dict:
        asked = json.loads(body)
        self.created.append(asked)
        return {"url": f"{self.address}/{asked['type']}s/{asked['organization']}/{asked['name']}"}

    def validate(self, body: bytes) -> dict:
        self.cards.append(json.loads(body)["content"])
        return {"errors": [], "warnings": []}

    def modes(self, body: bytes) -> dict:
        return {"files": [{"path": file["path"], "shouldIgnore": False,
                           "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular"}
                          for file in json.loads(body)["files"]]}

    def places(self, body: bytes) -> dict:
        return {"transfer": "basic", "objects": [
            {**one, "actions": {"upload": {"href": f"{self.address}/store/{one['oid']}"}}}
            for one in json.loads(body)["objects"]]}

    def commit(self, body: bytes) -> dict:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.files[line["value"]["path"]] = self.stored[line["value"]["oid"]]
        return {"commitUrl": f"{self.address}/datasets/o/n/commit/1", "commitOid": "1", "success": True}


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
