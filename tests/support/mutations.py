"""Damaged copies of a file's content, for tests that any bytes give a result or one clear line."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings

MUTATED = settings(derandomize=True, deadline=None, database=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
TOKENS = [b"[" * 10_000, b"\x00", b"\xff" * 4, b"-1", b"9" * 5000, b"1e999", b'"', b"{", b"}", b"null", b"\n", b"nan"]


def _apply(content: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    for kind, place, end, piece in changes:
        at, to = sorted((int(place * len(content)), int(end * len(content))))
        if kind == "truncate":
            content = content[:at]
        elif kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (piece[0] if piece else 1)]) + content[at + 1:]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "overwrite":
            content = content[:at] + piece + content[at + len(piece):]
        elif kind == "splice":
            content = content[:at] + content[to:] + content[at:to]
        elif kind == "cut":
            content = content[:at] + content[to:]
    return content


def mutations(content: bytes, focus: int | None = None) -> st.SearchStrategy[bytes]:
    """The content truncated, with flipped bits, and with pieces inserted, overwritten, cut out or moved; or any bytes.
    With `focus`, most changes are in as many bytes at its beginning, where a binary file has its header."""
    share = st.floats(0, 1)
    if focus is not None and len(content) > focus:
        share = st.one_of(st.floats(0, focus / len(content)), share)
    kinds = st.sampled_from(["truncate", "flip", "insert", "overwrite", "splice", "cut"])
    change = st.tuples(kinds, share, share, st.one_of(st.binary(max_size=8), st.sampled_from(TOKENS)))
    return st.one_of(st.lists(change, min_size=1, max_size=4).map(lambda changes: _apply(content, changes)),
                     st.binary(max_size=200))
