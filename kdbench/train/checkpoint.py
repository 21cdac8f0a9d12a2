"""Checkpoints: the state of an unfinished run after an epoch, in one file whose digest shows whether it is damaged."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from kdbench.disk import atomic_write, read_file

DIGEST = 32  # bytes of the SHA-256 digest that precedes the payload
# Seconds of training between two checkpoints, which are saved at the end of an epoch: a killed run loses about this
# much work and the epoch in progress.
EVERY = 10.0
# Seconds that saving a checkpoint may take. Where it takes longer, as in a folder that many machines share, checkpoints
# are proportionally rarer, so that saving takes at most a fiftieth of the training time.
CHEAP = 0.2


def save(path: Path, state: dict[str, Any]) -> None:
    """Save the state as the checkpoint at `path`, in place of an earlier one, which remains intact until the new one is
    complete."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    # Not synced to disk: if a power cut damages the file, its digest shows it, and the epochs are trained again.
    atomic_write(path, [hashlib.sha256(payload).digest(), payload], sync=False)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state saved at `path`, with its tensors on `device`; None if there is no checkpoint. ValueError if the file
    is damaged, OSError if it cannot be read."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        return None
    payload = content[DIGEST:]
    if hashlib.sha256(payload).digest() != content[:DIGEST]:
        raise ValueError("its content does not match its digest")
    return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
