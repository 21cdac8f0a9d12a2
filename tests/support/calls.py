"""Functions that a test calls in another process."""

import gc
import os
import signal

from kdbench.environment import git_commit
from kdbench.errors import unknown


def where(number):
    return os.getpid(), os.getcwd(), 2 * number  # noqa: PTH109  a string, as the parent has it


def mistaken(name):
    raise unknown("method", name, ["kd"])


def broken():
    return 1 / 0


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def collector():
    return gc.isenabled(), gc.get_freeze_count()


def looked_up():
    return git_commit.cache_info().currsize
