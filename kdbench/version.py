"""The version of kdbench, which `pyproject.toml` reads from here, and its web address, which `pyproject.toml` holds."""

from importlib.metadata import PackageNotFoundError, metadata

__version__ = "0.1.0"
HOME = "Homepage"  # key in [project.urls], where whoever publishes kdbench writes its address, as in CITATION.cff


def address() -> str | None:
    """The web address of kdbench, from the metadata of the installed package; None if there is none."""
    try:
        found = metadata("kdbench").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    return next((url.strip() for name, _, url in (one.partition(",") for one in found) if name.strip() == HOME), None)
