"""Imported by the fork server before all else, to spare it work that nobody needs."""

import atexit
import gc
import os
import sys

# To look for garbage while hundreds of thousands of objects are imported takes a fifth of the time, and there is none;
# the forked processes collect theirs.
gc.disable()


def _leave() -> None:
    """Exit at once, with what was printed. To tear these objects down takes a second, in which the server still holds
    its parent's standard output open, so that whatever reads that waits."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


atexit.register(_leave)
