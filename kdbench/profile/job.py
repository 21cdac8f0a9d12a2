"""The plain data of a measurement, which the process that makes it receives."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbench.errors import UserError
from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.profile.energy import WATTS_PER_CORE
from kdbench.profile.record import Subject, profile_id
from kdbench.spec import RunSpec


@dataclass(frozen=True)
class Settings:
    """How long measurements are, and the wattage for estimates of energy."""

    steps: int = 20     # training steps in a pass
    repeats: int = 5    # passes over the training steps, and turns of the networks in use
    watts_per_core: float = WATTS_PER_CORE  # of an estimate of energy

    def __post_init__(self) -> None:
        if not 0 < self.watts_per_core < math.inf:
            raise UserError(f"--watts {self.watts_per_core:g}: expected a finite number above 0")


@dataclass(frozen=True)
class ProfileJob:
    """One measurement: of a method's training, or of a pair's networks in use."""

    subject: Subject
    spec: RunSpec          # for a pair, that of any of its methods
    method: MethodInfo
    reference: MethodInfo  # what the method's steps are compared with
    suite: str
    out: Path
    cache: CacheFolder
    settings: Settings

    @property
    def id(self) -> str:
        return profile_id(self.subject, self.spec)

    def teachers(self) -> Iterator[str]:
        """The ids of jobs that must come first: none, since time does not depend on what networks have learned."""
        return iter(())

    def __str__(self) -> str:
        what = self.spec.method if self.subject == "method" else "student and teacher"
        return f"{what}  {self.spec.pair}  {self.spec.dataset}"
