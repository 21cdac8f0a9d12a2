"""The state of an unfinished run after an epoch, as one file that is either whole or known to be damaged."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from kdbench.disk import atomic_write, read_file

DIGEST = 32   # bytes of SHA-256 before the payload
EVERY = 10.0  # seconds of training after which an epoch's end is saved: what a kill costs, with the epoch in progress
# Seconds that saving may take. Where it takes longer, as on a folder that many machines share, it is done as much more
# seldom, so that it never takes more than a fiftieth of the time.
CHEAP = 0.2


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`; at every moment a complete one is there."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    # Not synced: after a power cut the digest tells, and epochs are repeated.
    atomic_write(path, [hashlib.sha256(payload).digest(), payload], sync=False)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state saved at `path`; None if there is none. ValueError if the file is damaged."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        return None
    payload = content[DIGEST:]
    if hashlib.sha256(payload).digest() != content[:DIGEST]:
        raise ValueError("its content does not match its digest")
    return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
