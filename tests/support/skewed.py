"""A folder of imaginary results on a skewed dataset: what a bias audit and a sweep of temperatures are made of."""

from pathlib import Path

import numpy as np
from support.records import record, spec, teacher_spec

from kdbench.metrics.answers import answers
from kdbench.results.store import Store

DATASET = "mnist5k+skew(0.95)"
LABELS = np.repeat(np.arange(10), 24)
TINTS = np.tile([0, 1], 120)  # warm, cool
GAPS = {  # by temperature of kd, or for ce: the group gap with seed 0; seed s has s / 100 more
    None: .15, 1.0: .15, 2.0: .13, 4.0: .12, 16.0: .05}
TEACHER_GAP = .10


def logits(*wrong: tuple[int, int], rest: int = 0) -> np.ndarray:
    """Of a network that takes the images of these classes and tints for the class `rest`, and knows all others."""
    said = LABELS.copy()
    for label, tint in wrong:
        said[(label == LABELS) & (tint == TINTS)] = rest
    return 5 * np.eye(10, dtype=np.float32)[said]


def arrays(array: np.ndarray) -> dict[str, np.ndarray]:
    known = {f"{split}_{what}": value for split in ("validation", "test")
             for what, value in (("logits", array), ("labels", LABELS))}
    return known | {
        "train_class_counts": np.full(10, 20), "group_attributes": np.array(["tint"]),
        "group_names": np.array([["warm", "cool"]]), "test_groups": TINTS[None],
        "train_group_counts": np.full((1, 10, 2), 10)}


def save(store: Store, run, gap: float, array: np.ndarray, **changes) -> None:
    right = array.argmax(1) == LABELS
    groups = [float(right[tint == TINTS].mean()) for tint in (0, 1)]
    classes = [float(right[label == LABELS].mean()) for label in range(10)]
    sha = store.write_predictions(run.id, arrays(array))
    store.write(record(
        run, float(right.mean()), predictions_sha256=sha, answers=answers(arrays(array)),
        groups={"tint": ["warm", "cool"]},
        metrics={"group_gap": gap, "worst_class_accuracy": min(classes), "worst_group_accuracy": min(groups)},
        vectors={"group_accuracy.tint": groups, "class_accuracy": classes}, **changes))


def make(folder: Path, seeds: int = 4, temperatures=(1.0, 2.0, 4.0, 16.0)) -> Path:
    """ce takes the cool images of classes 3 to 6 for 0; kd at 4 and above, those of class 3; the teacher none."""
    store = Store(folder)
    some, few = logits((3, 1), (4, 1), (5, 1), (6, 1)), logits((3, 1))
    for seed in range(seeds):
        save(store, spec("ce", seed, dataset=DATASET), GAPS[None] + seed / 100, some)
        for temperature in temperatures:
            save(store, spec("kd", seed, dataset=DATASET, temperature=temperature),
                 GAPS[temperature] + seed / 100 + .001 * (-1)**seed, few if temperature >= 4 else some)
    save(store, teacher_spec(DATASET), TEACHER_GAP, logits(), role="teacher")
    return folder
