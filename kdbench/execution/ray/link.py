"""The connection to the driver, as the process of the command that started it uses it."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

from kdbench.errors import UserError, plain
from kdbench.execution.ray.driver import AGAIN, Nodes, Refused

CONNECT_SECONDS = 90.0  # that a cluster may take until its first answer
SILENCE_SECONDS = 90.0  # for which a cluster may fail to answer later
STOP_SECONDS = 10.0     # that the driver may take to end
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0",  # no usage statistics are sent
               "RAY_gcs_rpc_server_reconnect_timeout_s": "60",  # after which Ray gives up on a cluster
               "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
DRIVE = "from kdbench.execution.ray.driver import drive; drive()"
PREFIX = re.compile(r"\[\d[^\]]*\]\s*(\(\w+\)\s*)?\S+:\d+:\s*")  # time and source line of Ray's log lines


class Link:
    """Starts a driver for the cluster at the address, and exchanges messages with it. `offers` are the resources of
    each node that is alive, as last reported."""

    def __init__(self, address: str):
        self.address = address
        self.offers: list[dict[str, float]] = []
        path = [os.path.abspath(place) for place in sys.path]  # noqa: PTH100  imports are from where they are here
        code = f"import sys; sys.path[:] = {path!r}; {DRIVE}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  what Ray prints
        self._connection, there = Pipe()
        with there:
            # In a session of its own, since Ctrl-C is for the command alone; and not in a folder of the user's, from
            # which Ray would let every worker import.
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(there.fileno()), address], pass_fds=[there.fileno()], cwd="/",
                env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                start_new_session=True)
        self._heard = time.monotonic()

    def wait_for_connection(self) -> None:
        """Wait until the cluster answers. UserError if it does not within `CONNECT_SECONDS`."""
        while not self.offers:
            for _ in self.events(CONNECT_SECONDS, CONNECT_SECONDS):
                pass

    def send(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `events` raises if the driver is gone
            self._connection.send(message)

    def events(self, seconds: float, silence: float = SILENCE_SECONDS) -> Iterator[Any]:
        """Wait up to `seconds` for the driver's next message, and yield all messages that are there but those on nodes,
        which update `offers`. UserError if the driver died, if it refuses tasks, or if the cluster has not answered for
        `silence` seconds."""
        try:
            while self._connection.poll(seconds):
                event = self._connection.recv()
                self._heard, seconds = time.monotonic(), 0.0
                if isinstance(event, Refused):
                    raise UserError(event.reason)
                if isinstance(event, Nodes):
                    self.offers = self.offers if event.offers is None else event.offers
                else:
                    yield event
        except (EOFError, ConnectionResetError):
            self._process.wait()
            raise UserError(f"--executor ray: the connection to the cluster broke: {self._last_words()}; {AGAIN}"
                            ) from None
        if time.monotonic() - self._heard >= silence:
            raise UserError(f"--executor ray: the cluster has not answered for {silence:.0f} seconds; {AGAIN}")

    def stop(self) -> None:
        """End the driver, and with it all of its tasks."""
        self._connection.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        printed = self._log.read().decode(errors="replace").splitlines()
        told = [PREFIX.sub("", plain(line), count=1).partition(". ")[0] for line in printed if line.strip()]
        return (told or [f"exit code {self._process.returncode}"])[-1][:300]
