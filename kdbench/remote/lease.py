"""The right of one command to write to a folder on an object store, which ends by itself when the command dies.

A lease is an object in `.lease/`, which its owner writes again and again. It is alive until it was not written for as
long as it says itself, by the store's clock alone: the date of one object against that of another. Whoever wants the
folder writes a lease first, and lists them then. If another one is alive it takes its own away and gives up. Of two
that ask at the same time at least one sees the other, so that never both go on; a store needs no conditional writes for
that, only that a listing shows what was written before.

A lease that outlived its time may come back: a machine that slept. Every lease has a number above those of the leases
that were there when it began, and an owner that sees a higher one held has lost its own.
"""

import math
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec

from kdbench.errors import UserError, plain
from kdbench.remote.bucket import Bucket, StoreError

SECONDS = 120.0  # that a lease is alive after it was written
ROUNDING = 1.0   # seconds that the date of an object may be early: S3's have whole ones
RENEWALS = 5     # in the time of a lease
TRIES = 4        # when others ask at the same time
FOLDER = ".lease"


class LostLease(UserError):
    """Another command has the folder now."""


class Note(msgspec.Struct, frozen=True):
    """What a lease's object holds."""

    number: int
    seconds: float
    held: bool    # or only asked for
    host: str
    process: int
    machine: str  # the mirror that its command works in

    def __str__(self) -> str:
        return f"process {self.process} on {plain(self.host)[:100]}"


def lease_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """How long leases are alive: what KDBENCH_LEASE_SECONDS says, or `SECONDS`. UserError for what is no such time."""
    text = environment.get("KDBENCH_LEASE_SECONDS")
    with suppress(ValueError):
        if 1 <= (seconds := float(text or SECONDS)) <= 86_400:
            return seconds
    raise UserError(f"KDBENCH_LEASE_SECONDS={text}: expected seconds from 1 to 86400")


class Lease:
    """A command's lease. `machine` names its mirror: a lease of the same mirror and host is a dead command's, as only
    one at a time works in a mirror."""

    def __init__(self, bucket: Bucket, machine: str):
        self.bucket, self.seconds = bucket, lease_seconds()
        self._note = Note(0, self.seconds, False, socket.gethostname(), os.getpid(), machine)
        self._name = f"{FOLDER}/{secrets.token_hex(8)}.json"
        self._renewed = -math.inf  # when it was written last and found not to be lost, by this machine's clock
        self._turn = threading.Lock()

    def acquire(self) -> None:
        """Get it. UserError if another command has the folder."""
        for tries_left in reversed(range(TRIES)):
            number = 1 + max((note.number for note in self._others().values()), default=0)
            self._note = msgspec.structs.replace(self._note, number=number, held=False)
            self._write()
            there = self._others()
            now = self.bucket.modified(self._name)  # None if another command that got it removed this one
            ends = {name: end for name, note in there.items() if (end := self._end(name, note)) is not None}
            alive = [name for name, end in ends.items() if now is not None and end > now]
            if now is not None and not alive:
                self._note = msgspec.structs.replace(self._note, held=True)
                self._renewed = _clock()
                self._write()
                for name in there:
                    self.bucket.remove(name)
                return
            self.bucket.remove(self._name)
            for name in alive:
                if now and (there[name].held or not tries_left):
                    end, left = ends[name].astimezone(UTC), (ends[name] - now).total_seconds()
                    raise UserError(f"{self.bucket.url}: in use by {there[name]}; its lease ends in {left:.0f} s, at "
                                    f"{end:%Y-%m-%d %H:%M:%S} UTC, unless that process renews it")
            time.sleep(random.uniform(0.2, 1.0))  # several asked at the same time
        raise UserError(f"{self.bucket.url}: several commands ask for it at the same time; try again")

    def renew(self) -> None:
        """Hold it for longer. `LostLease` if another command has the folder, or had it meanwhile."""
        with self._turn:
            began = _clock()
            there = self._name in self.bucket.list(FOLDER)
            if there:
                self._write()
            own = self._note.number, self._name
            other = next((note for name, note in self._others().items()
                          if note.held and (note.number, name) > own), None)
            if other and there:
                self.bucket.remove(self._name)
            if other or not there:
                self._renewed = -math.inf
                raise LostLease(f"{self.bucket.url}: the lease of this command ran out, and {other or 'another one'} "
                                "took the folder over: what was finished here is kept on this machine, and the same "
                                "command adds it")
            self._renewed = began

    def ensure(self) -> None:
        """Renew it, unless that was done just now."""
        if _clock() - self._renewed > self.seconds / RENEWALS:
            self.renew()

    def need_alive(self) -> None:
        """`StoreError` once it ran out, as far as this machine knows: `renew` may well find that it is lost. The store
        is not asked."""
        if _clock() - self._renewed > self.seconds:
            raise StoreError(f"{self.bucket.url}: the lease of this command ran out", passing=True)

    def release(self) -> None:
        """Let others have the folder."""
        with self._turn:
            self.bucket.remove(self._name)

    def _write(self) -> None:
        self.bucket.write(self._name, msgspec.json.encode(self._note))

    def _others(self) -> dict[str, Note]:
        """The leases that are there, but for this one, by name."""
        found = {}
        for name in self.bucket.list(FOLDER):
            if name != self._name and (content := self.bucket.read(name)) is not None:
                try:
                    found[name] = msgspec.json.decode(content, type=Note)
                except msgspec.MsgspecError:  # not ours to judge: it runs out like any other
                    found[name] = Note(0, SECONDS, True, "an unknown machine", 0, "")
        return found

    def _end(self, name: str, note: Note) -> datetime | None:
        """When another's lease is over, by the store's clock; None if it is already, as it was given up, or as its
        command is dead."""
        if (note.machine, note.host) == (self._note.machine, self._note.host):
            return None
        written = self.bucket.modified(name)
        return None if written is None else written + timedelta(seconds=note.seconds + ROUNDING)


def _clock() -> float:
    """Seconds by this machine's clock, with those in which it slept: Linux leaves these out of `time.monotonic`."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
