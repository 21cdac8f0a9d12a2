"""What the tests of studies share: what a study says, and studies that are killed."""

import os
import signal
import subprocess
import sys
import time

import msgspec

from kdbench.disk import json_files
from kdbench.tune.choice import read_choices


def told(folder):
    """All that a study says, but for its times."""
    found = msgspec.to_builtins(read_choices(folder))
    for choice in found["choices"]:
        for one in (choice, *choice["trials"]):
            del one["seconds"]
    return found


def tuning(folder, *options):
    """A command that tunes methods of the smoke suite into the folder."""
    return [sys.executable, "-m", "kdbench.cli.main", "tune", "smoke", *options, "--out", str(folder)]


def study(folder, cache, *options):
    """A study that ran to its end; what it printed."""
    done = subprocess.run(tuning(folder, *options), env={**os.environ, "KDBENCH_CACHE": str(cache)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed(folder, cache, kills, *options):
    """A study that is killed, each time so many seconds after so many records are there, and then let run."""
    for count, seconds in kills:
        process = subprocess.Popen(tuning(folder, *options), env={**os.environ, "KDBENCH_CACHE": str(cache)},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(json_files(folder / "records")) < count and process.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)  # its processes end with it
    study(folder, cache, *options)
