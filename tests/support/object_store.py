"""An object store for tests: moto's S3 behind a proxy that fails as it is told to, and keeps a log."""

import hashlib
import http.client
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import NamedTuple

from kdbench.remote.bucket import Found

BUCKET = "bucket"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1",
               "AWS_MAX_ATTEMPTS": "1", "AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none"}
PASSED_ON = ("content-type", "content-length", "etag", "last-modified", "x-amz-bucket-region")


class Request(NamedTuple):
    method: str
    name: str     # of an object; "" for a listing
    sha256: str   # of what was sent
    status: int   # 0 if the connection was cut


class ObjectStore:
    """The store. `trouble` is asked for each request, by number, method and object's name, and says what goes wrong:
    "500" or "403" (not passed on), "lost" (passed on, then a 500), "cut" (within the answer), "slow", or ""."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.backend = self._moto.get_host_and_port()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._proxy.daemon_threads = True
        Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Empty it, and end all trouble."""
        self.trouble: Callable[[int, str, str], str] = lambda number, method, name: ""
        self.log: list[Request] = []
        self.count = 0
        self._call("POST", "/moto-api/reset")
        self._call("PUT", f"/{BUCKET}")

    def stop(self) -> None:
        self._proxy.shutdown()
        self._moto.stop()

    def objects(self, folder: str = "run") -> dict[str, str]:
        """The SHA-256 of every object of a folder, by name, past the proxy."""
        import re

        listing = self._call("GET", f"/{BUCKET}?list-type=2&prefix={folder}/").decode()
        names = re.findall(r"<Key>(.*?)</Key>", listing)
        return {name.removeprefix(f"{folder}/"): hashlib.sha256(self.get(name)).hexdigest() for name in names}

    def get(self, name: str) -> bytes:
        return self._call("GET", f"/{BUCKET}/{name}")

    def put(self, name: str, content: bytes) -> None:
        self._call("PUT", f"/{BUCKET}/{name}", content)

    def delete(self, name: str) -> None:
        self._call("DELETE", f"/{BUCKET}/{name}")

    def next_number(self) -> int:
        with self._lock:
            self.count += 1
            return self.count

    def _call(self, method: str, path: str, content: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(*self.backend)
        scope = "Credential=any/20260101/us-east-1/s3/aws4_request"
        connection.request(method, path, content, {
            "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return body


class Objects:
    """A `Bucket` in memory, with a clock that stands still. `turn` is called before every operation."""

    url = "s3://bucket/run"

    def __init__(self):
        self.now = datetime(2001, 1, 1, tzinfo=UTC)  # far from this machine's clock
        self.objects, self.dates = {}, {}
        self.turn = lambda: None

    def list(self, folder=""):
        self.turn()
        return {name: Found(len(content), "") for name, content in self.objects.items() if name.startswith(folder)}

    def read(self, name, size=None):
        self.turn()
        return self.objects.get(name)

    def write(self, name, content):
        self.turn()
        self.objects[name], self.dates[name] = content, self.now
        return Found(len(content), "")

    def remove(self, name):
        self.turn()
        self.objects.pop(name, None)

    def modified(self, name):
        self.turn()
        return self.dates[name] if name in self.objects else None

    def later(self, seconds):
        self.now += timedelta(seconds=seconds)


class _Handler(BaseHTTPRequestHandler):
    store: ObjectStore
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms

    def _pass_on(self) -> None:
        store, body = self.store, self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0]
        name = path.removeprefix(f"/{BUCKET}").lstrip("/")
        trouble = store.trouble(store.next_number(), self.command, name)
        if trouble == "slow":
            time.sleep(0.3)
        status, headers, content = (int(trouble), {}, b"") if trouble.isdecimal() else self._ask(body)
        if trouble == "lost":
            status, headers, content = 500, {}, b""
        cut = trouble == "cut" and bool(content)
        store.log.append(Request(self.command, name, hashlib.sha256(body).hexdigest(), 0 if cut else status))
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() in PASSED_ON:
                self.send_header(key, value)
        if "content-length" not in {key.lower() for key in headers}:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.store.backend)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("expect", "connection")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        pass
