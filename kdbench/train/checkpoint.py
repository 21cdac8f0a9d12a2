"""The last epoch of an unfinished run, as one file that is either whole or known to be damaged."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

DIGEST = 32  # bytes of SHA-256 before the payload


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`; at every moment a complete one is there."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
    temporary.replace(path)  # not synced: after a power cut the digest tells, and an epoch is repeated


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state saved at `path`, None if there is none. ValueError if the file is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    payload = content[DIGEST:]
    if hashlib.sha256(payload).digest() != content[:DIGEST]:
        raise ValueError("its content does not match its digest")
    return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
