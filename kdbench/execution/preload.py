"""A module that the fork server imports first, to spare itself and the processes that it forks needless work."""

import atexit
import gc
import os
import sys

from kdbench.environment import environment

# While hundreds of thousands of objects are imported, looking for garbage takes a fifth of the time and finds none. The
# forked processes enable it again.
gc.disable()

# Every record says in which environment it was made. This call caches what has to be looked up for that, so that no
# process looks it up again; the git commit is then that of the code that the server has loaded, even if the checkout
# changes while runs go on.
environment("cpu")


def _leave() -> None:
    """Flush what was printed and exit at once. To tear down all that was imported takes a second, in which the server
    would still hold its parent's standard output open and keep whatever reads that waiting."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


atexit.register(_leave)
