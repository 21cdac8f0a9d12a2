"""What a metric is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Predictions = Mapping[str, np.ndarray]  # {validation,test}_{logits,labels} and what else `kdbench.store` keeps
Compute = Callable[[Predictions, Predictions], float | None]


@dataclass(frozen=True)
class Metric:
    """One figure of a run."""

    name: str
    title: str                     # the column's header
    unit: str                      # "share" (0 to 1), "nats", "seconds", ... or "" for a pure number
    better: Literal["higher", "lower"] | None
    definition: str
    reference: str = ""
    of: Literal["student", "teacher", "both", "run"] = "student"  # whose predictions it takes; "run": measured
    compute: Compute | None = None  # of the student's and the teacher's predictions; None is "not applicable"
    short: str = ""                 # a narrow table's header, if not the title

    @property
    def header(self) -> str:
        return self.short or self.title

    def of_teacher(self, **changes: Any) -> "Metric":
        """The same of the pair's teacher."""
        return replace(
            self, name=f"teacher_{self.name}", title=f"teacher's {self.title}",
            short=f"teacher's {self.short}" if self.short else "",
            definition=f"Of the pair's teacher: {self.definition[0].lower()}{self.definition[1:]}", **changes)
