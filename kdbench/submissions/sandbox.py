"""Sandboxed processes for code that others wrote, as isolated from everything else as this platform lets them be."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 1 << 30
MEMORY = 32 * GIB    # of address space, of which torch reserves much more than it uses
FILE = 4 * GIB       # bytes of a file
PROCESSES = 256      # further processes and threads of this user
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")  # environment variables
SAID = 2000          # bytes that are read from the end of a process's standard error
PROBE = 20           # seconds that a command may take to show that it works here


@dataclass(frozen=True)
class Ended:
    """How a sandboxed process ended."""

    code: int | None  # its exit code; None: it took too long and was killed
    said: str         # the end of what it wrote to standard error


class Sandbox:
    """The way of isolating processes that works on this machine, determined once. Besides what Python needs, processes
    can read the folders `needed`, wherever these are. With bwrap, the files and folders `hidden`, wherever these are,
    appear empty."""

    def __init__(self, needed: Iterable[Path] = (), hidden: Iterable[Path] = ()) -> None:
        self.needed, self.hidden = [str(path) for path in needed], [str(path.resolve()) for path in hidden]
        self.tool = next((tool for tool in ("bwrap", "unshare") if _works(_command(tool, Path("/"), "cpu"))), None)

    def told(self, device: str) -> str:
        """A text for readers of a replay on what the processes can and cannot do."""
        apart = {
            "bwrap": "no network; only its own folder can be written, and home folders are empty (bwrap)",
            "unshare": "no network (unshare); it may read and write where this user may, the test images too",
            None: "NETWORK AND DISK ARE OPEN TO IT: neither bwrap nor unshare works here",
        }[self.tool]
        memory = f"{MEMORY // GIB} GiB of addresses, " if device != "cuda" else ""
        return (f"a process of its own with an empty cache, folder and environment; {apart}; at most {memory}"
                f"{FILE // GIB} GiB a file, {PROCESSES} further processes, and a time limit")

    def run(self, module: str, arguments: Sequence[str], folder: Path, device: str, seconds: float) -> Ended:
        """Run a Python module in a process with `folder` as its own, and return how it ended. At its end, or after that
        many seconds, all processes that it began are killed."""
        home = folder / "home"
        home.mkdir(exist_ok=True)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
            "HOME": str(home), "TMPDIR": str(home), "KDBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        apart = _command(self.tool, folder, device, self.needed, self.hidden)
        command = [*apart, sys.executable, "-m", module, *arguments]
        processes = sum(_threads(one) for one in psutil.process_iter() if _own(one)) + PROCESSES
        # A file without a name, since the process may replace any named file in its folder.
        with tempfile.TemporaryFile(dir=folder) as said:
            began = subprocess.Popen(
                command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                start_new_session=True, preexec_fn=lambda: _limit(device, seconds, processes))  # noqa: PLW1509  no lock
            try:
                code = began.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(began.pid, signal.SIGKILL)
                began.wait()
            end = os.pread(said.fileno(), SAID, max(0, os.fstat(said.fileno()).st_size - SAID))
            return Ended(code, end.decode(errors="replace"))


def _command(tool: str | None, folder: Path, device: str, needed: Sequence[str] = (),
             hidden: Sequence[str] = ()) -> list[str]:
    """The words that precede a command to run it isolated by `tool`; empty if there is no tool."""
    if tool == "bwrap":
        hidden = [str(Path.home()), "/home", "/tmp", "/run", *hidden]
        # What Python and kdbench are read from must stay visible, also below a hidden folder.
        places = [sys.prefix, sys.base_prefix, *filter(None, sys.path), str(Path(__file__).parents[1]), *needed]
        mounts = [*(("--tmpfs", one) for one in hidden if Path(one).is_dir()),
                  *(("--ro-bind", "/dev/null", one) for one in hidden if Path(one).is_file()),
                  *(("--ro-bind", one, one) for one in dict.fromkeys(places) if Path(one).exists())]
        mounts.sort(key=lambda mount: len(Path(mount[-1]).parts))  # what is mounted later hides what lies below it
        return ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
                "--ro-bind", "/", "/", *(("--dev-bind", "/dev", "/dev") if device == "cuda" else ("--dev", "/dev")),
                "--proc", "/proc", *(part for mount in mounts for part in mount),
                *(("--bind", str(folder), str(folder)) if folder != Path("/") else ()), "--"]
    if tool == "unshare":
        return ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--"]
    return []


def _works(command: Sequence[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run([*command, "true"], capture_output=True, timeout=PROBE, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _limit(device: str, seconds: float, processes: int) -> None:
    """Set limits that the process cannot raise again. Called in the new process before the command."""
    limits = {resource.RLIMIT_FSIZE: FILE, resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: processes,
              resource.RLIMIT_CPU: int(seconds) * 4 + 60}
    if device != "cuda":  # CUDA reserves more address space than there is memory
        limits[resource.RLIMIT_AS] = MEMORY
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _own(process: psutil.Process) -> bool:
    try:
        return process.uids().real == os.getuid()
    except psutil.Error:
        return False


def _threads(process: psutil.Process) -> int:
    try:
        return process.num_threads()
    except psutil.Error:
        return 0
