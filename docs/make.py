"""Builds the documentation: `python docs/make.py FOLDER` writes the site, `--check` builds it and keeps nothing.

The hand-written pages are in docs/pages; docs/reference.py writes the reference from kdbench's declarations. Both are
put together in a temporary folder, which Zensical makes a site of. It stops at any broken link.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))  # with PYTHONSAFEPATH Python does not

from reference import fragments, pages  # noqa: E402

FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def stage(folder: Path) -> None:
    """Put everything that the site is made of into an empty folder: mkdocs.yml, and pages/ with all pages."""
    shutil.copy(DOCS / "mkdocs.yml", folder)
    target = folder / "pages"
    shutil.copytree(DOCS / "pages", target)
    parts = fragments()
    for page in target.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], text), encoding="utf-8")
    for name, text in pages().items():
        page = target / name
        if page.exists():
            raise SystemExit(f"{page.name}: both written by hand and generated")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    for name, page in FROM_ROOT.items():
        (target / page).write_text(_moved((ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")


def _moved(text: str) -> str:
    """A page of the repository's top level with its links as the site has them; what the site has not is no link."""
    def link(found: re.Match[str]) -> str:
        label, place = found[1], found[2]
        if ":" in place or place.startswith("#"):
            return found[0]
        if place in FROM_ROOT:
            return f"[{label}]({FROM_ROOT[place]})"
        inside = place.removeprefix("docs/pages/")
        return f"[{label}]({inside})" if inside != place else label

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def build(site: Path) -> None:
    """Write the site into a folder that does not exist yet. SystemExit where the pages have a fault."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stage(folder)
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(folder / "mkdocs.yml")]
        if subprocess.run(command, cwd=folder, check=False).returncode:
            raise SystemExit("the site has faults: see above")
        shutil.copytree(folder / "site", site)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation.")
    parser.add_argument("folder", nargs="?", type=Path, help="where the site goes; it must not exist yet")
    parser.add_argument("--check", action="store_true", help="build, and keep nothing")
    given = parser.parse_args()
    if given.folder is None and not given.check:
        parser.error("name a folder, or --check")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        build(given.folder or Path(temporary) / "site")
        kept = f"; {given.folder / 'index.html'}" if given.folder else ""
    print(f"built in {time.monotonic() - start:.0f} s{kept}")


if __name__ == "__main__":
    main()
