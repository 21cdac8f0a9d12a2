"""The task of a sandboxed process, as plain data."""

from typing import Literal

from msgspec import Struct


class Task(Struct, kw_only=True, frozen=True):
    what: Literal["train", "predict"]
    record: str                   # path of the run's record
    teachers: list[str] = []      # paths of the records of teachers to train first
    data: str                     # path of the file of images and labels
    plugin: str | None            # path of the method's source; None: it is installed
    cache: str                    # a cache of its own
    out: str                      # a results folder of its own
