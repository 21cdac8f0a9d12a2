"""URLs of folders of results: telling them from local paths, locating their mirrors, and naming them in messages."""

import hashlib
import os
import re
from pathlib import Path

from kdbench.errors import UserError
from kdbench.folders import CacheFolder, MirrorFolder

# Environment variables that also decide which store a URL means: a bucket of the same name may be at another endpoint.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_ACCOUNT_NAME")
PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")

_URLS: dict[str, str] = {}  # by the path of a mirror that `mirror_of` located, its URL


def url_of(given: object) -> str | None:
    """The URL that a command's argument is, without a slash at its end; None if the argument is a local path or neither
    text nor a path.

    `Path` shortens s3://bucket/run to s3:/bucket/run, so that an argument that begins in that way is taken for a URL,
    too.
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
    """The folder in the cache for the mirror of a URL; nothing is made there. `with_urls` knows it from then on.
    UserError if the URL names no bucket."""
    protocol, _, rest = url.partition("://")
    if not rest:
        raise UserError(f"{url}: it names no bucket, expected {protocol}://BUCKET/FOLDER")
    which = "\n".join([url, *(os.environ.get(name, "") for name in ENDPOINTS)])
    mirror = cache.remote(hashlib.sha256(which.encode()).hexdigest()[:16])
    _URLS[str(mirror.results)] = url
    return mirror


def with_urls(text: str) -> str:
    """The text with the path of each mirror that this process has located replaced by the mirror's URL."""
    for path, url in _URLS.items():
        text = text.replace(path, url)
    return text
