"""Gives commands local folders in place of URLs of results.

    @on_stores(folder=READ, out=WRITE)
    def command(folder: Path, out: Path) -> None: ...

Inside the function, an argument that was a URL is the path of its mirror, which has been brought up to date. If the
function writes there, this command alone has the folder at the store for as long as the function runs, and what it
finishes is uploaded meanwhile.
"""

import inspect
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from kdbench.disk import explain
from kdbench.errors import UserError, one_line
from kdbench.folders import CacheFolder
from kdbench.remote.bucket import Bucket, StoreError
from kdbench.remote.lease import RENEWALS, Lease, LostLease
from kdbench.remote.mirror import Mirror, not_uploaded
from kdbench.remote.place import local_path, mirror_of, url_of, with_urls

UPLOAD_EVERY = 3.0      # seconds between two looks for files to upload
LAST_PATIENCE = 60.0    # seconds for which the end of a command tries to upload
INTERRUPTED_PATIENCE = 10.0  # the same after a command that failed or was interrupted
STOP = signal.SIGUSR1   # ends a command as Ctrl-C does; not SIGINT, which background jobs of a shell ignore

P = ParamSpec("P")
R = TypeVar("R")


class Use(NamedTuple):
    """How a command uses a folder."""

    writes: bool = False
    networks: bool = False  # whether it needs the networks of all runs
    here: bool = False      # whether the folder has to be a local one


READ, READ_ALL = Use(), Use(networks=True)
WRITE, WRITE_ALL = Use(writes=True), Use(writes=True, networks=True)
LOCAL = Use(here=True)
Chosen = Use | Callable[[Mapping[str, Any]], Use]  # or a function from the command's arguments to a use

_OPENED: dict[Path, Mirror] = {}  # mirrors that this process opened, by the paths of their results


class NotUploaded(UserError):
    """Results could not be uploaded, and are on this machine only."""

    exit_code = 1


def on_stores(**uses: Chosen) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let the function's parameters with these names be URLs as well as paths, one or several of them. The function
    then also raises UserError for what a store refuses, for a folder that another command has, and, once it has ended,
    for results that could not be uploaded."""
    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            asked = signature.bind(*args, **kwargs)
            asked.apply_defaults()
            given = {name: _listed(asked.arguments[name]) for name in uses}
            if not any(url_of(one) for several in given.values() for one in several):
                return function(*args, **kwargs)
            chosen = {name: use if isinstance(use, Use) else use(asked.arguments) for name, use in uses.items()}
            with ExitStack() as opened:
                for name in sorted(uses, key=lambda name: not chosen[name].writes):  # folders to write to come first
                    places = [opened.enter_context(_opened(one, chosen[name], name)) for one in given[name]]
                    several = not isinstance(asked.arguments[name], str | Path | None)
                    if places:
                        asked.arguments[name] = places if several else places[0]
                try:
                    return function(*asked.args, **asked.kwargs)
                except UserError as error:
                    error.args = (with_urls(str(error)),)
                    raise

        return call

    return decorate


def bring(path: Path) -> None:
    """Download a file, if its path lies in a mirror that this process opened and the file is not here."""
    for place, mirror in _OPENED.items():
        if path.is_relative_to(place):
            mirror.bring(path.relative_to(place).as_posix())


def _listed(given: Any) -> list[Any]:
    return [] if given is None else [given] if isinstance(given, str | Path) else list(given)


@contextmanager
def _opened(given: str | Path, use: Use, name: str) -> Iterator[str | Path]:
    """Yield the local folder for an argument: the argument itself if it is a path, the folder that a URL of the
    protocol `file` names, or the mirror of another URL. UserError for such a URL if the folder has to be a local
    one."""
    url = url_of(given)
    local = Path(given) if url is None else local_path(url)
    if url is None or local is not None:
        yield local or given
        return
    if use.here:
        raise UserError(f"--{name} {url}: it has to be a folder of this machine")
    folder = mirror_of(url, CacheFolder.of_user())
    mirror = _OPENED[folder.results] = Mirror(folder, Bucket(url))
    if use.writes:
        with _writing(mirror, use.networks):
            yield folder.results
        return
    mirror.pull(use.networks)
    if left := not_uploaded(folder):
        print(f"note: {url}: {left} files are on this machine only; a command that writes there uploads them",
              file=sys.stderr)
    yield folder.results


@contextmanager
def _writing(mirror: Mirror, networks: bool) -> Iterator[None]:
    """Hold the lease of the folder at the store, bring the mirror up to date, and upload what is then written into
    it."""
    with mirror.written() as machine:
        lease = Lease(mirror.bucket, machine)
        try:
            lease.acquire()
            keeper = _Keeper(mirror, lease)
            with keeper.renewing():
                error: BaseException | None = None
                try:
                    with keeper.uploading():
                        mirror.pull(networks)
                        keeper.uploads = True
                        yield
                except BaseException as raised:
                    error = raised
                if keeper.uploads and keeper.lost is None:
                    _finish(mirror, lease, error)
                elif error is not None:
                    raise error
        finally:
            with suppress(UserError):
                lease.release()


def _push(mirror: Mirror, lease: Lease) -> None:
    """Renew the lease if necessary, and upload what changed. `LostLease` if another command has the folder,
    `StoreError` if files cannot be uploaded, whether the store or this machine is the cause."""
    lease.ensure()
    try:
        mirror.push(lease.need_alive)
    except OSError as error:
        raise StoreError(f"{mirror.bucket.url}: {explain(error)}", passing=False) from error


def _finish(mirror: Mirror, lease: Lease, error: BaseException | None) -> None:
    """Upload what is left, then raise the error with which the command ended, if there is one. `LostLease` if another
    command has the folder. If files cannot be uploaded, `NotUploaded` after a command that ended well; otherwise the
    user is told."""
    end = time.monotonic() + (LAST_PATIENCE if error is None else INTERRUPTED_PATIENCE)
    trouble = None
    while True:
        try:
            _push(mirror, lease)
            break
        except LostLease as lost:
            raise lost from error
        except StoreError as failed:
            trouble = failed
            if not failed.passing or time.monotonic() > end:
                break
            trouble = None
    if trouble is not None:
        told = (f"{trouble}; {not_uploaded(mirror.folder)} files are on this machine only, and the same command "
                "uploads them")
        if error is None:
            raise NotUploaded(told) from trouble
        print(f"kdbench: {one_line(told)}", file=sys.stderr)
    if error is not None:
        raise error


class _Keeper:
    """Two threads beside a command: one renews the lease until everything is uploaded, the other uploads. A store that
    cannot be reached stops neither them nor the command; if the lease is lost, the command is ended as Ctrl-C would end
    it."""

    def __init__(self, mirror: Mirror, lease: Lease):
        self.mirror, self.lease = mirror, lease
        self.uploads = False                # whether the mirror is up to date, and changes may go up
        self.lost: LostLease | None = None
        self._told = False
        self._main = threading.get_ident() if threading.current_thread() is threading.main_thread() else None

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew the lease in a thread. On exit, `LostLease` in place of any other error, if another command has the
        folder."""
        before = signal.signal(STOP, signal.default_int_handler) if self._main else None
        error: BaseException | None = None
        try:
            with _beside(self._renew):
                yield
        except BaseException as raised:
            error = raised
        if self._main:
            signal.signal(STOP, before)
        if self.lost is not None:
            raise self.lost from error
        if error is not None:
            raise error

    @contextmanager
    def uploading(self) -> Iterator[None]:
        with _beside(self._upload):
            yield

    def _renew(self, over: threading.Event) -> None:
        while not over.wait(self.lease.seconds / RENEWALS) and self.lost is None:
            try:
                self.lease.renew()
            except LostLease as lost:
                self._lose(lost)
            except StoreError as error:
                self._tell(error)

    def _upload(self, over: threading.Event) -> None:
        while not over.wait(UPLOAD_EVERY) and self.lost is None:
            if self.uploads:
                try:
                    _push(self.mirror, self.lease)
                except LostLease as lost:
                    self._lose(lost)
                except StoreError as error:
                    self._tell(error)

    def _lose(self, lost: LostLease) -> None:
        if self.lost is None:
            self.lost = lost
            if self._main:
                signal.pthread_kill(self._main, STOP)

    def _tell(self, error: StoreError) -> None:
        if not self._told:
            print(f"note: {one_line(str(error))}; results are kept on this machine until they can be uploaded",
                  file=sys.stderr)
        self._told = True


@contextmanager
def _beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread; on exit, set the event that it was given and wait until it returns."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
