"""What the tests of README and docs share: their blocks of code, and the commands in these."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TOP = tuple(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
PAGES = (*TOP, *sorted((ROOT / "docs" / "pages").rglob("*.md")))


class Block(NamedTuple):
    """A fenced block of code, and where it stands."""

    page: str      # the file, below the repository
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name that a first line such as "# photos.toml" gives to what stands in it."""
        found = re.match(r"# (\S+\.\w+)\n", self.text)
        return found[1] if found else None


def blocks(*languages: str) -> list[Block]:
    """All blocks of the languages, in all pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if block[1] in languages:
                line = text.count("\n", 0, block.start()) + 1
                found.append(Block(str(page.relative_to(ROOT)), line, block[1], block[2]))
    return found


class Command(NamedTuple):
    """A command as a page tells the reader to type it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def commands() -> list[Command]:
    """The commands in all blocks of shell code, in their order."""
    return [Command(block.page, words) for block in blocks("sh") for words in commands_of(block.text)]


def inline_commands() -> list[Command]:
    """The commands of kdbench that stand in running text."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`(kdbench [^`]+)`", text):
            if "..." not in code:
                found.append(Command(str(page.relative_to(ROOT)), tuple(shlex.split(" ".join(code.split())))))
    return found


def commands_of(text: str) -> list[tuple[str, ...]]:
    """The commands in a block of shell code, without comments."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [tuple(part) for line in lines for part in _parts(line) if part]


def _parts(words: list[str]) -> list[list[str]]:
    """The commands of a line, between its `&&`."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
