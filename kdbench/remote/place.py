"""URLs of folders of results: how one is told from a local path, where its mirror lies, and how text names it."""

import hashlib
import os
import re
from pathlib import Path

from kdbench.errors import UserError
from kdbench.folders import CacheFolder, MirrorFolder

# What else says which store a URL means: the same bucket of another endpoint is another one.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_ACCOUNT_NAME")
PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")

_URLS: dict[str, str] = {}  # by the path of a mirror that this process opened: the URL


def url_of(given: object) -> str | None:
    """The URL that a command's argument is, without a slash at its end; None for a local path.

    A `Path` keeps of s3://bucket/run only s3:/bucket/run: what begins so is a URL too.
    """
    if not isinstance(given, str | Path) or not (parts := Path(given).parts):
        return None
    found = PROTOCOL.fullmatch(parts[0])
    return f"{found[1].lower()}://{'/'.join(parts[1:])}" if found else None


def local_path(url: str) -> Path | None:
    """The local folder that a URL of the protocol `file` names; None for other URLs."""
    protocol, _, rest = url.partition("://")
    return Path("/") / rest if protocol == "file" else None


def mirror_of(url: str, cache: CacheFolder) -> MirrorFolder:
    """Where the mirror of a URL lies. UserError for a URL without a bucket."""
    protocol, _, rest = url.partition("://")
    if not rest:
        raise UserError(f"{url}: it names no bucket, expected {protocol}://BUCKET/FOLDER")
    which = "\n".join([url, *(os.environ.get(name, "") for name in ENDPOINTS)])
    mirror = cache.remote(hashlib.sha256(which.encode()).hexdigest()[:16])
    _URLS[str(mirror.results)] = url
    return mirror


def with_urls(text: str) -> str:
    """The text with the URL in place of each mirror's path."""
    for path, url in _URLS.items():
        text = text.replace(path, url)
    return text
