"""Imported by the fork server before all else, to spare it and its forks work that nobody needs."""

import atexit
import gc
import os
import sys

from kdbench.environment import environment

# To look for garbage while hundreds of thousands of objects are imported takes a fifth of the time, and there is none;
# the forked processes collect theirs.
gc.disable()

# Every record says where it was made. That is looked up once, here, and not by each process again; the commit is then
# that of the code which the server has loaded, whatever happens to the checkout while runs go on.
environment("cpu")


def _leave() -> None:
    """Exit at once, with what was printed. To tear these objects down takes a second, in which the server still holds
    its parent's standard output open, so that whatever reads that waits."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


atexit.register(_leave)
