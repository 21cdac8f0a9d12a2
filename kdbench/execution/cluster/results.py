"""Results in a folder that machines share: telling those of two tries apart, and waiting until a new one is visible."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from kdbench.execution.executor import Result, Task, Work
from kdbench.results.record import Outcome, Problem

VISIBLE_SECONDS = 90.0  # within which a shared folder shows what another machine wrote
LOOK_SECONDS = 0.5      # between two looks for a result


def fingerprint(result: Outcome | Problem | None) -> str:
    """A hash that differs between the results of two tries of the same task; "" if there is no result."""
    if result is None:
        return ""
    content = result.to_json() if isinstance(result, Outcome) else repr(result).encode()
    return hashlib.sha256(content).hexdigest()


def ended_well_since(job: Any, work: Work[Any, Any], before: str) -> bool:
    """Whether a task has a result with status "ok" whose fingerprint is not `before`."""
    result = work.result(job)
    return isinstance(result, Outcome) and result.status == "ok" and fingerprint(result) != before


def seen_result(job: Task, work: Work[Task, Result], announced: Callable[[], str]) -> Result:
    """Wait until the shared folder shows the result with the fingerprint that `announced` returns, and return it. After
    `VISIBLE_SECONDS`, return the result that is there instead. If that is missing or damaged, write and return a failed
    one."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while fingerprint(result := work.result(job)) != announced() and time.monotonic() <= deadline:
        time.sleep(LOOK_SECONDS)
    if isinstance(result, Problem) or result is None:
        found = result.reason if result else "none"
        return work.fail(job, "crashed", f"crashed: it left no readable record: {found}")
    return result
