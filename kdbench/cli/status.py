"""The command `kdbench status`, which reports the progress of the runs of a folder."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from shlex import quote
from textwrap import wrap
from typing import Annotated

import typer

from kdbench.cli.options import AsJson, Folder, Plugins, Workers
from kdbench.errors import plain
from kdbench.execution.display import duration
from kdbench.execution.status import FolderState, Kind, RunState, Watcher, seconds_since
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.remote.door import READ, on_stores
from kdbench.results.store import Store

WIDTH = 80      # columns of the printed text
REFRESH = 3.0   # seconds between two readings of the folder
MOST_LINES = 5  # lines that list the runs that failed for the same reason
WORDS: dict[Kind, str] = {
    "done": "done", "inapplicable": "not applicable", "pruned": "pruned", "running": "running",
    "interrupted": "interrupted", "failed": "failed", "stale": "stale", "missing": "missing",
    "newer": "of a newer kdbench",
}


@on_stores(folder=READ)
def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option(
        "--watch", help="look again every few seconds until nothing is running")] = False,
    workers: Workers = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Report which runs of a folder are done, running, failed, stale or missing, and how long the remaining ones will
    take. The exit code is 0 whatever the state of the runs."""
    from kdbench.profile.record import Profile, profiles, samples_of

    store, cache = Store(folder), CacheFolder.of_user()
    measured = [sample for profile, _ in profiles(store) if isinstance(profile, Profile)
                for sample in samples_of(profile)]
    watcher = Watcher(folder, cache, Registry(plugin or ()), workers or os.cpu_count() or 1, measured)
    if not watch:
        found = watcher.look()
        print(json.dumps(found.as_json(), indent=2) if as_json else status_to_text(found))
    elif sys.stdout.isatty() and not as_json:
        _watch_live(watcher)
    else:
        _watch_plainly(watcher, as_json)


def _looks(watcher: Watcher) -> Iterator[FolderState]:
    """Yield the current state of the folder, and read it again every REFRESH seconds as long as a run is running. No
    run is running in the last state."""
    while (found := watcher.look()).of_kind("running"):
        yield found
        time.sleep(REFRESH)
    yield found


def _watch_live(watcher: Watcher) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    found = None
    with Live(console=Console(), auto_refresh=False, transient=True) as live:
        for found in _looks(watcher):
            live.update(Text(status_to_text(found)), refresh=True)
    if found is not None:
        print(status_to_text(found))


def _watch_plainly(watcher: Watcher, as_json: bool) -> None:
    """Print a line, of JSON if `as_json`, whenever the counts of runs or teachers have changed; at the end, unless
    `as_json`, print the whole status."""
    found, told = None, None
    for found in _looks(watcher):
        if told != (told := (found.runs, found.teachers)):
            print(json.dumps(found.as_json()) if as_json else _summary(found))
    if found is not None and not as_json:
        print(f"\n{status_to_text(found)}")


# Text.

def status_to_text(found: FolderState) -> str:
    """The state of a folder as text: the number of runs of each kind, the teachers, the runs that are running, were
    interrupted or failed, the time left, the commands that continue them, and notes."""
    total = sum(found.runs.values())
    what = ("trial" if found.tuning else "run") + "s" * (total != 1)
    suites = plain(", ".join(found.suites)) or "an unknown suite"
    lines = [f"{plain(found.folder)}: {total} {what} of {suites}"]
    width = len(str(max(found.runs.values(), default=0)))
    for kind, word in WORDS.items():
        if found.runs.get(kind) or kind == "done":
            lines.append(f"  {found.runs.get(kind, 0):>{width}} {word}{_more(kind, found)}")
    if found.teachers:
        lines.append(f"teachers: {_counts(found.teachers)}")
    lines += _section("running", found.of_kind("running"), _running)
    lines += _section("interrupted", found.of_kind("interrupted"), _interrupted)
    lines += _failed(found.of_kind("failed"))
    lines += ["", f"time left: {_time(found)}", *_go_on(found), *(f"note: {plain(note)}" for note in found.notes)]
    return "\n".join(line for text in lines for line in _fitted(text))


def _more(kind: Kind, found: FolderState) -> str:
    if kind != "stale":
        return ""
    methods = ", ".join(f"{plain(name)} {count}" for name, count in sorted(found.stale.items()))
    return f": the source of their method changed since ({methods})"


def _counts(counts: Mapping[Kind, int]) -> str:
    return ", ".join(f"{counts[kind]} {word}" for kind, word in WORDS.items() if counts.get(kind))


def _summary(found: FolderState) -> str:
    """The numbers of runs and teachers of each kind, and the time left, in one line."""
    teachers = f"; teachers: {_counts(found.teachers)}" if found.teachers else ""
    return f"{_counts(found.runs)}{teachers}; time left: {_time(found)}"


def _section(title: str, runs: Sequence[RunState], words: Callable[[RunState], list[str]]) -> list[str]:
    return ["", f"{title}:", *(line for one in runs for line in words(one))] if runs else []


def _running(one: RunState) -> list[str]:
    if one.started is None:
        return [f"  {_label(one)}", "    has told nothing yet"]
    since = plain(one.started)[:16].replace("T", " ")
    return [f"  {_label(one)}", f"    {_at(one)} since {since} UTC, {duration(seconds_since(one.started))}"]


def _interrupted(one: RunState) -> list[str]:
    return [f"  {_label(one)}", f"    {_at(one)}" if one.epochs else "    with a checkpoint"]


def _at(one: RunState) -> str:
    """The epoch of a run, its validation accuracy if known, and the machine and process that train it or trained it
    last."""
    accuracy = "" if one.accuracy is None else f", {one.accuracy:.1%}"
    return f"epoch {one.epoch} of {one.epochs}{accuracy}, on {plain(str(one.host))} ({one.process})"


def _label(one: RunState) -> str:
    name = f"teacher {one.spec.student.model}" if one.role == "teacher" else one.method
    return "  ".join(plain(part) for part in (name, one.pair, one.dataset, f"seed {one.seed}"))


def _failed(runs: Sequence[RunState]) -> list[str]:
    """Lines that list the failed runs by reason, the most frequent first; empty if there are none."""
    if not runs:
        return []
    by_reason: dict[str, list[RunState]] = {}
    for one in runs:
        by_reason.setdefault(one.reason or "no reason is known", []).append(one)
    lines = ["", "failed:"]
    for reason, alike in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        groups = list(_seeds(alike))
        lines += [f"  {len(alike)} x {plain(reason)}", *(f"    {line}" for line in groups[:MOST_LINES])]
        if len(groups) > MOST_LINES:
            lines.append(f"    and {len(groups) - MOST_LINES} more: --json lists them")
    return lines


def _seeds(runs: Iterable[RunState]) -> Iterator[str]:
    """Yield one line for each role, method, pair and dataset among the runs, with the seeds of these runs."""
    def place(one: RunState) -> tuple[str, ...]:
        return one.role, one.method, one.pair, one.dataset

    for _, alike in groupby(sorted(runs, key=lambda one: (place(one), one.seed)), key=place):
        first, *others = alike
        yield _label(first) + "".join(f", {one.seed}" for one in others)


def _time(found: FolderState) -> str:
    if found.seconds_left is None:
        return f"not known: no record tells of {found.unknown} runs"
    more = f", and {found.unknown} runs of which no record tells" if found.unknown else ""
    if not found.seconds_left and not found.unknown:
        return "none, nothing is to do" if not found.of_kind("running") else "none"
    return f"about {duration(found.seconds_left)}, {found.workers} at a time{more}"


def _go_on(found: FolderState) -> list[str]:
    """Lines with the command that continues the runs of the folder, and the one that repeats its stale runs; empty if
    neither is needed."""
    (suite, *others), counts = found.suites or ("SUITE",), found.runs
    what = f"{'tune' if found.tuning else 'run'} {'SUITE' if others else suite}"
    command = f"kdbench {what} ... --out {quote(found.folder)}"
    if found.tuning:
        return [f"to go on: {plain(command)}"] if counts.get("missing") or counts.get("interrupted") else []
    lines = []
    if any(counts.get(kind) for kind in ("missing", "interrupted", "failed")):
        retried = " --retry failed" if counts.get("failed") else ""
        lines.append(f"to go on: {plain(command)}{retried}")
    if counts.get("stale"):
        lines.append(f"to redo stale runs: {plain(command)} --retry stale")
    return lines


def _fitted(line: str) -> list[str]:
    """The line wrapped at WIDTH columns; further lines are indented by four spaces more than the first."""
    indent = " " * (len(line) - len(line.lstrip()))
    return wrap(line, WIDTH, subsequent_indent=f"{indent}    ", replace_whitespace=False, drop_whitespace=True,
                break_on_hyphens=False) or [""]


COMMANDS = {"status": status}
