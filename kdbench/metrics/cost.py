"""Metrics of the costs of training and using a student. `kdbench profile` measures them, one process at a time and on
one thread."""

from kdbench.metrics.metric import LARGEST, Metric

ALONE = "Measured by `kdbench profile`, in a process of its own with nothing beside it."
DEPLOYED = "of the network that is deployed, in eval mode and the recipe's precision"
ENERGY = ("Energy by the source that is named beside it: `nvml` (the whole GPU's counter), `rapl` (the counters of all "
          "processor packages and their memory) or `estimate` (the process's CPU seconds times a stated wattage per "
          "core); figures of different sources cannot be compared.")

COST = (
    Metric("step_ms", "training step", "ms", "lower",
           "Time of one training step, batch and optimizer included: the median over passes of a pass's mean over "
           f"steps drawn from all parts of a run, in turns with steps of ce. {ALONE}", of="run", short="step ms"),
    Metric("step_time_ratio", "step time against ce", "", "lower",
           "Step time over that of ce on the same pair, their steps taken in turns: the median over passes. "
           f"{ALONE}", of="run", short="x ce"),
    Metric("training_seconds", "training, measured alone", "seconds", "lower",
           "Step time times the steps of the recipe; loading the images, scoring and saving are not in it.",
           of="run", short="train s"),
    Metric("training_memory_bytes", "peak memory, measured alone", "bytes", "lower",
           "Highest memory of a process that held the data and trained this method only: resident memory, Python and "
           f"libraries included; on a GPU the allocated device memory. {ALONE}", of="run", short="memory"),
    Metric("step_energy_joules", "energy per step", "joules", "lower", f"{ENERGY} Per training step.",
           of="run", short="J/step"),
    Metric("training_energy_joules", "training energy", "joules", "lower",
           f"{ENERGY} Per training step, times the steps of the recipe.", of="run", short="train J"),
    Metric("parameters", "parameters", "", "lower", f"Number of parameters {DEPLOYED}.", of="run"),
    Metric("flops", "FLOPs", "", "lower",
           f"Floating-point operations for one image {DEPLOYED}, by torch's counter: convolutions, matrix products and "
           "attention; a multiply-accumulate is two operations.", of="run"),
    Metric("file_bytes", "model file", "bytes", "lower", f"Size of the safetensors file {DEPLOYED}.", of="run"),
    Metric("latency_ms", "latency", "ms", "lower",
           f"Median time of one image (batch 1), on one thread, {DEPLOYED}. {ALONE}", of="run"),
    Metric("latency_p95_ms", "latency, 95th percentile", "ms", "lower",
           f"Time of one image (batch 1) that 95 of 100 calls keep, on one thread, {DEPLOYED}. {ALONE}",
           of="run", short="p95 ms"),
    Metric("throughput", "throughput", "images/s", "higher",
           f"Images per second at batch 64, on one thread, {DEPLOYED}: median over repeats. {ALONE}", of="run"),
    Metric("energy_per_1000_images", "energy per 1,000 images", "joules", "lower",
           f"{ENERGY} Per 1,000 images at batch 64.", of="run", short="J/1000"),
    Metric("speedup", "speed-up over the teacher", "", "higher",
           "The teacher's latency over the student's, both at batch 1 in one process: median over repeats.", of="run"),
    Metric("energy_saving", "energy saved against the teacher", "share", "higher",
           "Share of the teacher's energy per image that the student saves, both at batch 64 in one process: median "
           "over repeats.", of="run", low=-LARGEST),
)
