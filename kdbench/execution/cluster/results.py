"""Results in a folder that machines share: telling one try's from another's, and waiting until a new one is seen."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from kdbench.execution.executor import Result, Task, Work
from kdbench.results.record import Outcome, Problem

VISIBLE_SECONDS = 90.0  # after which a shared folder shows what another machine wrote
LOOK_SECONDS = 0.5      # between two looks for it


def fingerprint(result: Outcome | Problem | None) -> str:
    """What tells a result from that of another try of the same task; "" if there is none."""
    if result is None:
        return ""
    content = result.to_json() if isinstance(result, Outcome) else repr(result).encode()
    return hashlib.sha256(content).hexdigest()


def ended_well_since(job: Any, work: Work[Any, Any], before: str) -> bool:
    """Whether a task has a good result, and another one than that with the fingerprint `before`."""
    result = work.result(job)
    return isinstance(result, Outcome) and result.status == "ok" and fingerprint(result) != before


def seen_result(job: Task, work: Work[Task, Result], announced: Callable[[], str]) -> Result:
    """The result with the fingerprint that `announced` gives, once the shared folder shows it here too; the one that
    is there, if it does not come; a failure, if there is none."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while fingerprint(result := work.result(job)) != announced() and time.monotonic() <= deadline:
        time.sleep(LOOK_SECONDS)
    if isinstance(result, Problem) or result is None:
        found = result.reason if result else "none"
        return work.fail(job, "crashed", f"crashed: it left no readable record: {found}")
    return result
