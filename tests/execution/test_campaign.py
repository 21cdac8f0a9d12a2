"""A campaign of faults against `kdbench run`: whatever is killed, full, damaged or done twice, nothing is lost.

Each part draws its faults from a seeded generator, counts them by kind (`pytest -m slow -s` prints the table) and ends
with weights, predictions and metrics equal to those of an undisturbed run, no temporary files, and no traceback in
what any command printed. A hang fails: every wait has an end.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from kdbench.data.files import mnist5k
from kdbench.disk import file_sha256
from kdbench.folders import CacheFolder, DataFolder
from kdbench.results.store import Store

pytestmark = pytest.mark.slow
FAULTS = {"damaged files": 144, "kills": 30, "damaged while unfinished": 24, "no space": 10, "two at once": 6,
          "damaged arrays": 10}  # how many each part injects
TESTS = Path(__file__).parent.parent
# The command `kdbench`, but its runs save a checkpoint after every epoch: theirs take less than the usual ten seconds.
KDBENCH = (sys.executable, "-c", "from kdbench.execution import pool; pool.PRELOADED.append('support.often')\n"
                                 "from kdbench.cli.main import main; main()")
METHODS = "kd,dml"
RUNS = 5  # a teacher, and two methods with two seeds each
SECONDS = 240  # until a command is taken for one that hangs


# Commands.

class Place:
    """A results folder and a cache, and the commands that work on them."""

    def __init__(self, folder: Path, epochs: int = 3, cache: Path | None = None):
        self.out, self.epochs = folder / "out", epochs
        self.cache = CacheFolder(cache or folder / "cache")

    def start(self, **options) -> psutil.Popen:
        return psutil.Popen(
            [*KDBENCH, "run", "smoke", "--methods", METHODS, "--seeds", "2", "--set", f"recipe.epochs={self.epochs}",
             "--out", self.out], env={"KDBENCH_CACHE": str(self.cache.root), "OMP_NUM_THREADS": "1",
                                      "PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)

    def run(self, **options) -> tuple[int, str]:
        """Exit code and output of the command."""
        return end(self.start(**options))

    def results(self) -> dict:
        """What must be equal to the results of an undisturbed run, read from the files themselves."""
        records, problems = Store(self.out).read()
        assert problems == []
        assert {r.run_id for r in Store(self.out).planned()[0]} == {r.run_id for r in records}
        files, teachers = Store(self.out).files, Store(self.cache.teachers).files
        return {r.run_id: (r.status, r.weights_sha256, r.predictions_sha256, r.metrics,
                           file_sha256((teachers if r.role == "teacher" else files).student(r.run_id)),
                           file_sha256(files.predictions(r.run_id))) for r in records}

    def temporary(self) -> list[Path]:
        return [path for root in (self.out, self.cache.root) for path in root.rglob(".*.tmp")]


def end(process: psutil.Popen) -> tuple[int, str]:
    """Exit code and output of a command that must end, and print no traceback."""
    try:
        output = process.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it hangs; it printed: {process.communicate()[0]}")
    assert "Traceback" not in output, output
    return process.returncode, output


def table(part: str, count: Counter) -> None:
    """Print the faults by kind, and hold their number to what the campaign promises."""
    print(f"\n{part}: {count.total()}\n" + "\n".join(f"{n:6} {kind}" for kind, n in sorted(count.items())))
    assert count.total() == FAULTS[part]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[int, Place]:
    """Where an undisturbed run has left its results, by number of epochs."""
    places = {epochs: Place(tmp_path_factory.mktemp(f"undisturbed{epochs}"), epochs) for epochs in (3, 12)}
    for place in places.values():
        code, output = place.run()
        assert code == 0, output
        assert len(place.results()) == RUNS
    return places


def test_the_campaign_has_at_least_200_faults():
    assert sum(FAULTS.values()) >= 200


# Faults of files. Each takes the path, another file of its kind, and a generator.

def flip(path, other, chance):
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def replaced(make):
    def fault(path, other, chance):
        path.unlink()
        make(path)
    return fault


DAMAGE = {
    "deleted": lambda path, other, chance: path.unlink(),
    "emptied": lambda path, other, chance: path.write_bytes(b""),
    "truncated": lambda path, other, chance: path.write_bytes(
        path.read_bytes()[:chance.randrange(1, path.stat().st_size)]),
    "zeroed": lambda path, other, chance: path.write_bytes(bytes(path.stat().st_size)),
    "bit flipped": flip,
    "appended to": lambda path, other, chance: path.write_bytes(path.read_bytes() + chance.randbytes(7)),
    "another's": lambda path, other, chance: path.write_bytes(other.read_bytes()),
    "a folder": replaced(lambda path: path.mkdir()),
    "a link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "a pipe": replaced(os.mkfifo),
}


class Faults:
    """Damages files, each kind of damage as often as the others, and remembers what must be told of."""

    def __init__(self, seed: int):
        self.chance, self.count = random.Random(seed), Counter()
        self.told: list[Path] = []
        self._kinds: list[str] = []

    def damage(self, path: Path, other: Path, silent: tuple[str, ...] = ()) -> None:
        """Damage a file; `silent` are the kinds of damage that are put right without a word."""
        if not self._kinds:
            self._kinds = self.chance.sample(sorted(DAMAGE), len(DAMAGE))
        kind = self._kinds.pop()
        DAMAGE[kind](path, other, self.chance)
        what = path.name if path.name in ("checkpoint", "progress.json") else path.parent.name
        self.count[f"{what} {kind}"] += 1
        if kind not in silent:
            self.told.append(path)


def test_damaged_files_of_a_finished_matrix_are_told_and_made_again(tmp_path, undisturbed):
    place, whole, faults = Place(tmp_path), undisturbed[3], Faults(seed=1)
    expected = whole.results()
    assert place.run()[0] == 0
    own, teachers, others = (Store(folder).files for folder in (place.out, place.cache.teachers, whole.out))
    students = sorted(r.run_id for r in Store(place.out).read()[0] if r.role == "student")
    (teacher,) = (r.run_id for r in Store(place.cache.teachers).read()[0])
    another = dict(zip([*students, teacher], [*students[1:], students[0], students[0]], strict=True))

    def damage(files, kind, run):
        silent = ("deleted",) if kind in ("record", "plan") else ()  # as if it had never been
        faults.damage(getattr(files, kind)(run), getattr(others, kind)(another[run]), silent)

    while faults.count.total() < FAULTS["damaged files"]:
        faults.told.clear()
        for run in students:
            damage(own, faults.chance.choice(("record", "predictions", "student")), run)
        for run in faults.chance.sample(students, 3):
            damage(own, "plan", run)
        damage(own, faults.chance.choice(("record", "predictions")), teacher)
        damage(teachers, faults.chance.choice(("record", "predictions", "student")), teacher)
        code, output = place.run()
        assert code == 0, output
        assert [path for path in faults.told if str(path) not in output] == [], output
        assert place.results() == expected
        assert place.temporary() == []
    table("damaged files", faults.count)


# Kills.

class Watcher(threading.Thread):
    """Reads the records all the while; none may ever be half there."""

    def __init__(self, out):
        super().__init__(daemon=True)
        self.out, self.problems, self.reads, self.stop = out, [], 0, False

    def run(self):
        while not self.stop:
            self.problems += Store(self.out).read()[1]
            self.reads += 1
            time.sleep(0.01)


def family(parent: psutil.Process) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The processes that fork a command's workers, and the workers: one per run in progress."""
    try:
        servers = [child for child in parent.children() if child.children()]
        return servers, [worker for server in servers for worker in server.children()]
    except psutil.NoSuchProcess:
        return [], []


def wait_for_workers(parent: psutil.Popen) -> None:
    until = time.monotonic() + SECONDS
    while parent.poll() is None and not family(parent)[1] and time.monotonic() < until:
        time.sleep(0.05)


def damage_unfinished(place: Place, faults: Faults) -> None:
    """Damage a file of each unfinished run, but none that earlier damage left too short to be cut; of none where no run
    has begun."""
    for folder in sorted((place.cache.root / "checkpoints").glob("*")):
        files = [path for path in (folder / "checkpoint", folder / "progress.json")
                 if path.is_file() and path.stat().st_size > 1]
        if files and faults.count.total() < FAULTS["damaged while unfinished"]:
            others = [path for path in folder.parent.glob("*/checkpoint") if path.is_file()]
            faults.damage(faults.chance.choice(files), faults.chance.choice(others or files))


def test_killed_at_random_moments_and_damaged_a_matrix_ends_with_the_same_results(tmp_path, undisturbed):
    expected, chance, rounds = undisturbed[12].results(), random.Random(2), 0
    kills, faults = Counter(), Faults(seed=3)
    place = Place(tmp_path / "0", epochs=12)
    watcher = Watcher(place.out)
    watcher.start()
    process = place.start()
    while kills.total() < FAULTS["kills"] or faults.count.total() < FAULTS["damaged while unfinished"]:
        wait_for_workers(process)
        time.sleep(chance.uniform(0, 2))
        servers, workers = family(process)
        if process.poll() is not None or not workers:
            if process.poll() is not None:
                code, output = end(process)
                assert code in (0, 1, 2), output  # 1: too often killed; 2: its preflight was
                if code == 0:  # it finished under fire: compare, and start from nothing
                    assert place.results() == expected
                    rounds += 1
                    place = Place(tmp_path / str(rounds), epochs=12)
                    watcher.out = place.out
                process = place.start()
            continue
        what = chance.choice(("parent", "parent", "worker", "server"))
        sent = chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)) if what == "parent" else signal.SIGKILL
        if kills.total() < FAULTS["kills"]:
            kills[f"{what} {sent.name}"] += 1
        chance.choice({"parent": [process], "worker": workers, "server": servers}[what]).send_signal(sent)
        if what == "parent":
            end(process)
            alive = psutil.wait_procs(workers, timeout=20)[1]
            assert alive == [], "workers outlived their parent"
            damage_unfinished(place, faults)
            process = place.start()
    end(process)
    code, output = place.run()
    assert code == 0, output
    watcher.stop = True
    watcher.join()
    assert watcher.reads > 100 and watcher.problems == []
    assert place.results() == expected
    assert place.temporary() == []
    table("kills", kills)
    table("damaged while unfinished", faults.count)


# No space.

def test_a_limit_of_file_sizes_costs_one_line_that_names_the_file_and_what_to_do(tmp_path, undisturbed):
    place, count, chance = Place(tmp_path), Counter(), random.Random(4)
    limits = [0, *(chance.randrange(1, 60_000) for _ in range(FAULTS["no space"] - 1))]
    for limit in sorted(limits):
        code, output = place.run(preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2))
        # Without a byte to write, Python finds no place for its own temporary files, and says that.
        assert code == 0 or "ulimit -f" in output or (limit == 0 and "temporary directory" in output), output
        assert place.temporary() == []
        count[f"files of at most {limit // 10_000}0,000 bytes, exit code {code}"] += 1
    code, output = place.run()
    assert code == 0, output
    assert place.results() == undisturbed[3].results()
    table("no space", count)


def test_a_full_disk_costs_one_line_that_says_what_to_do(tmp_path, undisturbed):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", small]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        place = Place(small, cache=tmp_path / "cache")
        code, output = place.run()
        assert code != 0 and "free some space" in output, output
        assert place.temporary() == []
        subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
        assert place.run()[0] == 0
        assert place.results() == undisturbed[3].results()
    finally:
        subprocess.run(["umount", small], check=True)


# Two at once.

@pytest.mark.parametrize("shared", ["folder", "cache"])
def test_two_commands_at_once_give_the_results_of_one(tmp_path, undisturbed, shared):
    expected = undisturbed[3].results()
    for number in range(FAULTS["two at once"] // 2):
        first = Place(tmp_path / f"{number}a")
        second = first if shared == "folder" else Place(tmp_path / f"{number}b", cache=first.cache.root)
        processes = [first.start(), second.start()]
        ended = [end(process) for process in processes]
        if shared == "folder":
            codes = sorted(code for code, _ in ended)
            assert codes == [0, 2] and any("in use by another" in output for _, output in ended), ended
        else:
            assert [code for code, _ in ended] == [0, 0], ended
        for place in (first, second):
            assert place.results() == expected
            assert place.temporary() == []


# Arrays in the cache.

def test_damaged_arrays_in_the_cache_are_made_again(tmp_path):
    faults, images = Faults(seed=5), mnist5k(tmp_path)
    (file,) = DataFolder(tmp_path).decoded("any").parent.iterdir()
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes()[:32] + bytes(1000))
    for _ in range(FAULTS["damaged arrays"]):
        faults.damage(file, other)
        for ours, theirs in zip(mnist5k(tmp_path), images, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    table("damaged arrays", faults.count)
