"""What a repeated run must reproduce: comparison of two records of a run, the hash of many runs, and what else may
change their bits."""

import hashlib
from collections.abc import Iterable

import msgspec

from kdbench.results.record import Record
from kdbench.spec import PORTABLE

ENVIRONMENT = ("python", "versions", "platform", "cpu", "gpu", "device", "threads", "git_commit")  # can change bits
SOURCE = "source of the method"


def differing_metrics(record: Record, again: Record) -> list[str]:
    """The names of the metrics that both records have with different values. A metric that only one of them has is no
    difference: the other record is older, or the metric was added later."""
    return sorted(name for name in record.metrics.keys() & again.metrics.keys()
                  if record.metrics[name] != again.metrics[name])


def differing(record: Record, again: Record) -> list[str]:
    """What differs between two finished records of a run: "weights", "predictions" and "N of M metrics", M being those
    that both have. Empty if the two are bit-equal."""
    metrics = differing_metrics(record, again)
    shared = len(record.metrics.keys() & again.metrics.keys())
    return [what for what, same in (("weights", record.weights_sha256 == again.weights_sha256),
                                    ("predictions", record.predictions_sha256 == again.predictions_sha256),
                                    (f"{len(metrics)} of {shared} metrics", not metrics)) if not same]


def environment_of(record: Record) -> dict[str, str]:
    """Everything besides the spec that can change the bits of a run's results, by name, as text: environment, package
    versions, git commit and the method's source. On "cpu-portable" the processor cannot, and is left out."""
    known = {name: record.environment.get(name) for name in ENVIRONMENT
             if name != "cpu" or record.spec.device != PORTABLE}
    versions = known.pop("versions")
    flat = {**known, **(versions if isinstance(versions, dict) else {"versions": versions})}
    commit = flat.pop("git_commit")
    hashes = {"git_commit": commit and commit[:12], SOURCE: record.method_digest[:12]}
    return {name: str(value) for name, value in (flat | hashes).items()}


def results_hash(runs: Iterable[Record]) -> str:
    """The SHA-256 of what is equal whenever somebody repeats the runs: specs, statuses, weights, predictions and
    metrics."""
    total = hashlib.sha256()
    for run in sorted(runs, key=lambda run: run.run_id):
        total.update(msgspec.json.encode([run.run_id, run.status, run.weights_sha256, run.predictions_sha256,
                                          sorted(run.metrics.items())]))
    return total.hexdigest()
