"""Shows the URL of results on an object store in all printed text, instead of the path of their mirror in the cache."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from kdbench.remote.place import with_urls


class _WithUrls:
    """A text stream that writes to another stream, with URLs in place of the paths of mirrors."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(with_urls(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def urls_shown() -> Iterator[None]:
    """A context in which standard output and standard error show URLs in place of the paths of mirrors."""
    out: Any = _WithUrls(sys.stdout)
    err: Any = _WithUrls(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        yield
