"""What is printed names results on an object store by their URL, and not by the path of the mirror in the cache."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from kdbench.remote.place import with_urls


class _WithUrls:
    """A stream that writes to another one."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(with_urls(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def urls_shown() -> Iterator[None]:
    """While it lasts, standard output and standard error have URLs in place of mirrors' paths."""
    out: Any = _WithUrls(sys.stdout)
    err: Any = _WithUrls(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        yield
