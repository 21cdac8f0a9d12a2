"""The version of kdbench, which `pyproject.toml` reads from here, and its address, which stands in `pyproject.toml`."""

from importlib.metadata import PackageNotFoundError, metadata

__version__ = "0.1.0"
HOME = "Homepage"  # in [project.urls]: whoever publishes kdbench writes its address there, and into CITATION.cff


def address() -> str | None:
    """Where kdbench lives, as the metadata of the installed package say; None if they say nothing."""
    try:
        found = metadata("kdbench").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    return next((url.strip() for name, _, url in (one.partition(",") for one in found) if name.strip() == HOME), None)
