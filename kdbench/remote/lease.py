"""A lease: the right of one command to write to a folder on an object store, which ends by itself when the command
dies.

A lease is an object in `.lease/`, which its owner writes again and again. It is alive for as many seconds after the
last write as it says itself. Only the store's clock counts: the date of one object is compared with that of another. A
command that wants the folder first writes a lease, and then lists all leases. If another one is alive, it removes its
own and gives up. Of two commands that ask at the same time at least one sees the other, so that never both go on. For
that, a store needs no conditional writes; its listings only have to show what was written before.

The owner of a lease that has run out may come back, on a machine that slept. Every lease therefore has a higher number
than the leases that were there when it began, and an owner that sees a held lease with a higher number has lost its
own.
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

SECONDS = 120.0  # for which a lease is alive after it was written
ROUNDING = 1.0   # seconds by which the date of an object may be early: S3 has whole seconds
RENEWALS = 5     # within the seconds for which a lease is alive
TRIES = 4        # if others ask at the same time
FOLDER = ".lease"


class LostLease(UserError):
    """The lease of this command is lost: another command has the folder, or had it meanwhile."""


class Note(msgspec.Struct, frozen=True):
    """The content of a lease's object."""

    number: int
    seconds: float  # for which it is alive after it was written
    held: bool      # whether its command has the folder, or only asks for it
    host: str
    process: int
    machine: str    # the name of the mirror that its command works in

    def __str__(self) -> str:
        return f"process {self.process} on {plain(self.host)[:100]}"


def lease_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """The seconds for which leases are alive: KDBENCH_LEASE_SECONDS, or else `SECONDS`. UserError if the value is no
    number from 1 to 86400."""
    text = environment.get("KDBENCH_LEASE_SECONDS")
    with suppress(ValueError):
        if 1 <= (seconds := float(text or SECONDS)) <= 86_400:
            return seconds
    raise UserError(f"KDBENCH_LEASE_SECONDS={text}: expected seconds from 1 to 86400")


class Lease:
    """The lease of one command. `machine` names the mirror that the command works in. Since only one command at a time
    writes in a mirror, another lease of the same mirror and host belongs to a dead command."""

    def __init__(self, bucket: Bucket, machine: str):
        self.bucket, self.seconds = bucket, lease_seconds()
        self._note = Note(0, self.seconds, False, socket.gethostname(), os.getpid(), machine)
        self._name = f"{FOLDER}/{secrets.token_hex(8)}.json"
        self._renewed = -math.inf  # when the lease was last written and found not to be lost, by `_clock`
        self._turn = threading.Lock()

    def acquire(self) -> None:
        """Get the lease. UserError if another command has the folder, or if several commands keep asking for it at the
        same time."""
        for tries_left in reversed(range(TRIES)):
            number = 1 + max((note.number for note in self._others().values()), default=0)
            self._note = msgspec.structs.replace(self._note, number=number, held=False)
            self._write()
            there = self._others()
            now = self.bucket.modified(self._name)  # None if another command got the folder and removed this lease
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
        """Write the lease again, so that it is alive for longer. `LostLease` if another command has the folder, or had
        it meanwhile."""
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
        """Renew the lease, unless that was done within the last 1/`RENEWALS` of the time for which it is alive."""
        if _clock() - self._renewed > self.seconds / RENEWALS:
            self.renew()

    def need_alive(self) -> None:
        """`StoreError` if the lease has run out by this machine's clock. The store is not asked: only `renew` finds
        whether another command has the folder, so that the lease is lost."""
        if _clock() - self._renewed > self.seconds:
            raise StoreError(f"{self.bucket.url}: the lease of this command ran out", passing=True)

    def release(self) -> None:
        """Remove the lease, so that others can have the folder."""
        with self._turn:
            self.bucket.remove(self._name)

    def _write(self) -> None:
        self.bucket.write(self._name, msgspec.json.encode(self._note))

    def _others(self) -> dict[str, Note]:
        """The other leases that are there, by the names of their objects. One that cannot be decoded counts as held for
        `SECONDS`."""
        found = {}
        for name in self.bucket.list(FOLDER):
            if name != self._name and (content := self.bucket.read(name)) is not None:
                try:
                    found[name] = msgspec.json.decode(content, type=Note)
                except msgspec.MsgspecError:  # unknown content; it runs out like any other lease
                    found[name] = Note(0, SECONDS, True, "an unknown machine", 0, "")
        return found

    def _end(self, name: str, note: Note) -> datetime | None:
        """The time at which another lease ends, by the store's clock; None if it is over, since it was given up or its
        command is dead."""
        if (note.machine, note.host) == (self._note.machine, self._note.host):
            return None
        written = self.bucket.modified(name)
        return None if written is None else written + timedelta(seconds=note.seconds + ROUNDING)


def _clock() -> float:
    """The seconds of a monotonic clock that also counts while this machine sleeps, as `time.monotonic` does not on
    Linux."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
