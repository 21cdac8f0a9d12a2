"""The declaration of a metric."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kdbench.paper import Paper

Predictions = Mapping[str, np.ndarray]  # by name: the arrays that `kdbench.results.predictions` describes
Compute = Callable[[Predictions, Predictions], float | None]

LARGEST = 1e100  # greater than any number that is measured, and small enough to be squared


@dataclass(frozen=True)
class Metric:
    """A number that describes a run, and how it is computed and shown."""

    name: str                      # its key in a record's metrics
    title: str                     # its header in tables
    unit: str                      # "share" (0 to 1), "nats", "seconds", ... or "" for a pure number
    better: Literal["higher", "lower"] | None  # None if neither is better
    definition: str                # in sentences, for the documentation
    reference: Paper | None = None  # the publication that introduced it
    of: Literal["student", "teacher", "both", "run"] = "student"  # whose predictions it is computed from; "run": none
    compute: Compute | None = None  # from the student's and the teacher's predictions; returns None if not applicable
    short: str = ""                # its header in narrow tables, if that is not the title
    low: float = 0.0               # the lowest value that it can have: -1 for a difference of two shares

    @property
    def cited(self) -> str:
        """The reference and its URL in one line of text; "" if the metric has no reference."""
        if self.reference is None:
            return ""
        return f"{self.reference}" + (f" {self.reference.url}" if self.reference.url else "")

    @property
    def high(self) -> float:
        """The highest value that the metric can have: 1 for a share, else `LARGEST`."""
        return 1.0 if self.unit == "share" else LARGEST

    @property
    def header(self) -> str:
        """The header in narrow tables: `short`, or the title if that is empty."""
        return self.short or self.title

    def of_teacher(self, **changes: Any) -> "Metric":
        """The declaration of the same metric for the pair's teacher, with further `changes` to its fields."""
        return replace(
            self, name=f"teacher_{self.name}", title=f"teacher's {self.title}",
            short=f"teacher's {self.short}" if self.short else "",
            definition=f"Of the pair's teacher: {self.definition[0].lower()}{self.definition[1:]}", **changes)
