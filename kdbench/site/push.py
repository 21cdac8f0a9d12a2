"""Uploads the data of a site to the Hugging Face hub, as a dataset repository."""

import re
from pathlib import Path

from kdbench.errors import UserError, plain

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_repository(name: str) -> None:
    """Raise UserError unless the name has the form OWNER/NAME."""
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"--push {name[:100]}: expected OWNER/NAME of a dataset repository")


def push(data: Path, name: str) -> str:
    """Upload the folder to the Hugging Face dataset repository OWNER/NAME, which is created if it does not exist, and
    return the repository's address. The token is that of huggingface_hub's login. UserError if the hub refuses or
    cannot be reached."""
    from huggingface_hub import HfApi  # here, because it takes a second to import

    api = HfApi(library_name="kdbench")
    try:
        address = api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(folder_path=data, repo_id=name, repo_type="dataset", commit_message="Publish with kdbench")
    except Exception as error:  # also those of the HTTP library, requests or httpx depending on the version
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = "; log in first, with a token that may write: `hf auth login`" if status in (401, 403) else ""
        raise UserError(f"--push {name}: {plain(str(error))[:300] or type(error).__name__}{advice}") from error
    return str(address)
