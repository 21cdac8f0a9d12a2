"""Records of compressed networks without the networks' making."""

import hashlib

from support.profiles import quartiles
from support.records import info, spec

from kdbench.compress.record import FLOAT_AGREEMENT, Compressed, CompressTask, Settings, Use, write_compressed
from kdbench.disk import atomic_write
from kdbench.results.store import Store

SETTINGS = Settings(int8=True, prune=.5, recovery=3)


def compressed(kind="int8", run=None, accuracy=.5, latency=.001, status="ok", **changes) -> Compressed:
    """The record of a network of that kind, by default of the student of ce that `finish` writes."""
    run = run or spec("ce")
    network = f"{kind} of {run.id}".encode()
    measured = {
        "metrics": {"test_accuracy": accuracy, "worst_class_accuracy": accuracy / 2, FLOAT_AGREEMENT: .9,
                    "corruption_accuracy": .4, "pgd_small_accuracy": .3, "pgd_accuracy": .1},
        "use": Use(latency_seconds=quartiles(latency), latency_p95_seconds=2 * latency, throughput=quartiles(1000),
                   joules_per_1000_images=quartiles(7.0)),
        "energy_source": "estimate", "watts_per_core": 10.0, "load_average": 0.5, "attack": "own gradients",
        "file_bytes": 2048, "parameters": 100, "network_sha256": hashlib.sha256(network).hexdigest(),
    } if status == "ok" else {}
    task = CompressTask(run, info(run.method, "logit"), "test", SETTINGS.of(kind, run))
    return Compressed.of(task, status, **{
        **task.fields, **measured, "source_sha256": hashlib.sha256(b"weights of " + run.id.encode()).hexdigest(),
        "environment": {"cpu": "a test's"}, "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:02Z",
        **changes})


def put(store: Store, one: Compressed) -> None:
    """The record, and the network that it tells of, into a folder."""
    if one.status == "ok":
        atomic_write(store.files.compressed_network(one.run_id), f"{one.kind} of {one.spec.id}".encode())
    write_compressed(store, one)
