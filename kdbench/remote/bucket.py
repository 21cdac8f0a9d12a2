"""The objects below a URL: listing, reading, writing and removing them, with retries while the store fails.

fsspec gives access to the stores, and takes endpoint and credentials from where each store's own tools take them.
"""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kdbench.errors import UserError, nearest, one_line

STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file")  # that keep the promises of `Bucket`
PATIENCE = 20.0        # seconds for which an operation that fails is tried again
FIRST_PATIENCE = 8.0   # the same until one has succeeded, since a user waits for the first answer
FIRST_DELAY, LAST_DELAY = 0.2, 5.0  # seconds between two tries
VERSIONS = ("ETag", "etag", "md5Hash", "generation")  # names of the mark that changes with an object's content
DATES = ("LastModified", "last_modified", "updated", "mtime", "created")
SHOWN = 300            # characters of an exception's text

# Names of classes of exceptions, so that no store's library is imported for them.
CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError",
               "TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "ProfileNotFound",
               "DefaultCredentialsError", "ClientAuthenticationError")
CONNECTION = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyConnectionError",
              "ConnectionClosedError", "ClientConnectorError", "ConnectionError", "ConnectionRefusedError")
MISTAKES = (ValueError, TypeError)


class StoreError(UserError):
    """A store refused an operation, failed, or cannot be reached. `passing` is whether a later try may well succeed."""

    def __init__(self, message: str, passing: bool):
        super().__init__(message)
        self.passing = passing


class Found(NamedTuple):
    """The size of an object in bytes, and its version, which changes with its content, as a listing gives them."""

    size: int
    version: str


class Bucket:
    """The objects below a URL, by their names relative to it, such as records/0123456789abcdef.json.

    An object is there whole or not at all, and whoever lists or reads after a write has ended sees what was written: S3
    and the other large stores promise both. Every operation raises a `StoreError`: at once if the store refuses it, and
    if it still fails after `PATIENCE`."""

    def __init__(self, url: str):
        self.url = url
        self._fs, self._root = _connect(url)
        self._patience = FIRST_PATIENCE

    def list(self, folder: str = "") -> dict[str, Found]:
        """All objects, or those in one folder, by name."""
        def look() -> dict[str, Any]:
            self._fs.invalidate_cache()
            return self._fs.find(self._path(folder) if folder else self._root, detail=True)

        try:
            found = self._tried(look)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: there is no such bucket", passing=False) from error
        return {name[len(self._root) + 1:]: Found(info["size"] or 0, _version(info)) for name, info in found.items()
                if name.startswith(f"{self._root}/")}

    def read(self, name: str, size: int | None = None) -> bytes | None:
        """The content of an object; None if there is no such object. If `size`, which a listing gave, is not the length
        of the content, the store is asked for the present size, and the object is read again until that is the
        length."""
        path = self._path(name)

        def whole() -> bytes:
            content: bytes = self._fs.cat_file(path)
            if size not in (None, len(content)) and (now := self._fs.info(path)["size"]) != len(content):
                raise OSError(f"{name}: {len(content)} of {now} bytes came")
            return content

        try:
            return self._tried(whole)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> Found:
        """Write an object, in place of one with the same name, and return its size and version."""
        try:
            self._tried(self._fs.pipe_file, self._path(name), content)
            return Found(len(content), _version(self._tried(self._fs.info, self._path(name))))
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: the bucket is gone", passing=False) from error

    def remove(self, name: str) -> None:
        """Remove an object, if there is one with this name."""
        try:
            self._tried(self._fs.rm_file, self._path(name))
        except FileNotFoundError:
            return

    def modified(self, name: str) -> datetime | None:
        """The time at which an object was last written, by the store's clock; None if there is no such object."""
        try:
            found: datetime = self._tried(self._fs.modified, self._path(name))
        except FileNotFoundError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _tried(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call the function until it succeeds, and return what it returns. FileNotFoundError if there is no such object
        or bucket, StoreError if further tries are useless or the patience is over."""
        end, delay = time.monotonic() + self._patience, FIRST_DELAY
        while True:
            try:
                result = function(*arguments)
                self._patience = PATIENCE
                return result
            except FileNotFoundError:
                raise
            except Exception as error:  # each store's library has its own
                told = _explained(self.url, error)
                if not told.passing or time.monotonic() + delay > end:
                    raise told from error
            time.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, LAST_DELAY)


def _connect(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path in it. UserError if the protocol is unknown, or if fsspec or
    its package for the protocol is not installed; StoreError if there is another failure."""
    try:
        import fsspec
    except ImportError as error:
        raise UserError(f"{url}: fsspec is not installed: pip install 'kdbench[s3]'") from error
    protocol = url.partition("://")[0]
    if protocol not in STORES:
        raise UserError(f"{url}: unknown kind of store {protocol[:100]!r}{nearest(protocol[:100], STORES)}")
    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        how = "pip install 'kdbench[s3]'" if protocol in ("s3", "s3a") else one_line(str(error))
        raise UserError(f"{url}: the package for {protocol}:// is not installed: {how}") from error
    except Exception as error:  # each store's library has its own
        raise _explained(url, error) from error
    return fs, root.rstrip("/")


def _explained(url: str, error: Exception) -> StoreError:
    """The `StoreError` for an exception of a store's library, in one line that says what to do."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    what = one_line(str(error) or type(error).__name__)[:SHOWN]
    if isinstance(error, PermissionError):
        return StoreError(f"{url}: access denied ({what}): check the credentials and what they allow", passing=False)
    if kinds & set(CREDENTIALS):
        return StoreError(f"{url}: no credentials ({what}): set them as the store's own tools expect them, for S3 as "
                          "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or in ~/.aws", passing=False)
    if isinstance(error, MISTAKES) or "ParamValidationError" in kinds:
        return StoreError(f"{url}: {what}", passing=False)
    if kinds & set(CONNECTION) or isinstance(error, TimeoutError):
        return StoreError(f"{url}: the store cannot be reached ({what}): check the network and, for S3, "
                          "AWS_ENDPOINT_URL", passing=True)
    return StoreError(f"{url}: the store fails ({what})", passing=True)


def _version(info: dict[str, Any]) -> str:
    """A text that changes with an object's content: the store's own mark of it, or else size and date."""
    mark = next((info[name] for name in VERSIONS if info.get(name)), None)
    return str(mark) if mark else f"{info.get('size')} {next((info[name] for name in DATES if info.get(name)), '')}"
