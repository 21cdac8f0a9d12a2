"""The commands for submissions to a reference leaderboard: packing, checking, adding and removing them."""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.options import AsJson, Folder, Plugins, split_names
from kdbench.cli.text.columns import printable
from kdbench.errors import UserError
from kdbench.remote.door import LOCAL, READ, READ_ALL, WRITE, on_stores

if TYPE_CHECKING:
    from kdbench.submissions.check import Checked
    from kdbench.submissions.replay import Replayed

File = Annotated[Path, typer.Argument(metavar="FILE", help="what `kdbench submit` packed")]
Replay = Annotated[int, typer.Option(min=0, metavar="N", help="run N runs again, in a sandbox: this executes the "
                                     "submitter's code")]
Seed = Annotated[int, typer.Option(help="which runs are drawn to be replayed")]
TimeLimit = Annotated[float, typer.Option(min=1, metavar="SECONDS", help="after which a replayed run is stopped")]

results_commands = typer.Typer(no_args_is_help=True, help="Check results that others submitted, add and remove them.")


@on_stores(folder=lambda asked: READ_ALL if asked["files"] else READ, against=READ, out=LOCAL)
def submit(
    folder: Folder,
    methods: Annotated[str, typer.Option(help="your methods, comma-separated")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the zip to write")],
    licence: Annotated[str, typer.Option("--license", metavar="SPDX", help="of results and plugin: MIT, CC-BY-4.0")],
    author: Annotated[str, typer.Option(metavar="TEXT", help="who is named beside the results")],
    paper: Annotated[str | None, typer.Option(metavar="TEXT", help="where the method is published")] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="of the method's code or page")] = None,
    suite: Annotated[str | None, typer.Option(help="the suite of the runs, if it does not come with kdbench")] = None,
    files: Annotated[str | None, typer.Option("--with", metavar="students", help="the networks' weights too")] = None,
    against: Annotated[Path | None, typer.Option(metavar="DIR", help="reference results to check it against")] = None,
    plugin: Plugins = None,
) -> None:
    """Pack the runs of your methods into a zip for a reference leaderboard. The exit code is 1, and nothing is written,
    if `kdbench results check` would refuse it."""
    from kdbench.results.sizes import size_text
    from kdbench.submissions.check import check
    from kdbench.submissions.package import About, members
    from kdbench.submissions.zipped import write_zip

    if files not in (None, "students"):
        raise UserError(f"--with {files}: expected students")
    found = members(folder, split_names(methods) or [], plugin or (), suite, About(licence, author, paper, url),
                    files is not None)
    with tempfile.TemporaryDirectory(prefix="kdbench-submit-") as temporary:
        packed, place = Path(temporary) / "packed.zip", Path(temporary) / "checked"
        write_zip(packed, found)
        done = check(packed, against, place)
        for finding in done.findings:
            print(printable(str(finding)), file=sys.stderr if finding.refused else sys.stdout)
        if done.refused:
            print("nothing was written", file=sys.stderr)
            raise typer.Exit(1)
        from kdbench.disk import atomic_write

        atomic_write(out, packed.read_bytes())
    failed = sum(one.status != "ok" for one in done.own)
    print(f"{out}: {len(done.own)} runs{f' ({failed} without a result)' if failed else ''} and {len(done.others)} of "
          f"witnesses and teachers, {size_text(out.stat().st_size)}, SHA-256 {done.sha256[:16]}")


@on_stores(file=LOCAL, against=READ)
def check(
    file: File,
    against: Annotated[Path, typer.Option(metavar="DIR", help="the reference results")],
    replay: Replay = 0,
    seed: Seed = 0,
    time_limit: TimeLimit = 3600,
    as_json: AsJson = False,
) -> None:
    """Check a submission against reference results, without running its code unless --replay is given. The exit code is
    1 if the submission is refused."""
    with tempfile.TemporaryDirectory(prefix="kdbench-check-") as temporary:
        done, _ = _checked(file, against, replay, seed, time_limit, Path(temporary), not as_json)
        if as_json:
            print(json.dumps({"file": str(file), "sha256": done.sha256, "refused": done.refused,
                              "findings": [one._asdict() for one in done.findings]}, indent=1))
        if done.refused:
            raise typer.Exit(1)


@on_stores(file=LOCAL, to=WRITE)
def add(
    file: File,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="the reference results, which take it")],
    replay: Replay = 0,
    seed: Seed = 0,
    time_limit: TimeLimit = 3600,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="take it with the mark self-reported even if the check "
                                            "refuses results; damaged and unsafe files are never taken")] = False,
) -> None:
    """Check a submission and merge it into reference results, with a mark: self-reported with --unchecked; else
    replayed, if runs were replayed and all gave the same bits; else checked. The exit code is 1, and nothing is
    written, if the submission is refused."""
    from kdbench.results.submitted import Mark
    from kdbench.submissions.add import add
    from kdbench.tune.choice import read_choices

    with tempfile.TemporaryDirectory(prefix="kdbench-add-") as temporary:
        done, replayed = _checked(file, to, replay, seed, time_limit, Path(temporary), True)
        believed = [one.finding.kind for one in replayed if one.finding.refused]
        opinions = {"missing seeds", "extra seeds", "made elsewhere", "wrong lock", "missing witness", "witness"}
        refused = [one for one in done.findings if one.refused and not (unchecked and one.kind in opinions)]
        if refused or believed:
            print("nothing was added", file=sys.stderr)
            raise typer.Exit(1)
        equal = [one.run for one in replayed if one.equal]
        all_equal = bool(equal) and len(equal) == len(replayed)
        mark: Mark = "self-reported" if unchecked else "replayed" if all_equal else "checked"
        place = Path(temporary) / "merge"
        place.mkdir()
        merged = add(done, file.name, to, mark, equal, place, read_choices)
        for line in merged.told:
            print(printable(line))
        if merged.refused:
            print("\n".join(map(printable, merged.refused)), file=sys.stderr)
            print("nothing was added", file=sys.stderr)
            raise typer.Exit(1)
        assert done.manifest is not None
        print(printable(f"{to}: {', '.join(done.manifest.names)} added as {mark}; {merged.records} records"))


@on_stores(folder=LOCAL)
def remove(
    folder: Folder,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="a method that somebody submitted")],
) -> None:
    """Remove from reference results all submissions that contain a method: their runs, plugin files and marks. A
    corrected submission can be added afterwards."""
    from kdbench.submissions.remove import remove

    for one in remove(folder, method):
        print(printable(f"{folder}: {one} removed; {len(one.runs)} runs"))


def _checked(file: Path, against: Path, count: int, seed: int, seconds: float, temporary: Path,
             say: bool) -> "tuple[Checked, list[Replayed]]":
    """Check a submission against the results in `against`, replay `count` of its runs if it is not refused, and return
    what was checked and replayed. If `say`, the findings are printed. `temporary` is an empty folder to work in, and
    `seconds` the time limit of each replayed run."""
    from kdbench.folders import CacheFolder
    from kdbench.submissions.check import Finding, check
    from kdbench.submissions.replay import draw, replay

    done = check(file, against, temporary / "submission")
    replayed: list[Replayed] = []
    if count and done.refused:
        done.findings.append(Finding(False, "replay", "no run was run again, since the check refuses something"))
    for finding in done.findings if say else ():
        print(printable(str(finding)))
    if count and not done.refused:
        place = temporary / "replay"
        place.mkdir()
        for one in replay(done, draw(done.own, count, seed, done.sha256), place, CacheFolder.of_user(), seconds):
            replayed.append(one)
            done.findings.append(one.finding)
            if say:
                print(printable(str(one.finding)))
    if say:
        print(f"{file}: {'refused' if done.refused else 'good'}; {len(done.own)} runs, SHA-256 {done.sha256[:16]}")
    return done, replayed


COMMANDS = {"submit": submit}
for _command in (check, add, remove):
    results_commands.command(name=_command.__name__)(_command)
