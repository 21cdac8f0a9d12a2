"""Records of imaginary runs."""

from pathlib import Path

from kdbench.plugins.source import Hyperparameter, MethodInfo
from kdbench.results.record import Planned, Record
from kdbench.spec import Architecture, Recipe, RunSpec, TrainedTeacher

RECIPE = Recipe(epochs=2, batch_size=8, image_size=8, lr=0.1)


def info(name: str, family: str, **changes) -> MethodInfo:
    """A method that nobody wrote."""
    fields = dict(paper=None, doc="", hyperparameters={}, learns_from="teacher", needs_data=True, conditions=(),
                  class_name="Mine", module=None, file=Path("mine.py"), digest="a" * 64)
    return MethodInfo(name=name, family=family, **{**fields, **changes})


REGISTRY = {
    "ce": info("ce", "baseline"),
    "kd": info("kd", "logit", hyperparameters={"temperature": Hyperparameter("temperature", "float", 4.0)}),
    "at": info("at", "attention"),
}


def teacher_spec(dataset="digits", recipe=RECIPE, pair="big-small") -> RunSpec:
    return RunSpec(method="ce", pair=pair, student=Architecture(model="big"), dataset=dataset, recipe=recipe, seed=1000)


def spec(method="ce", seed=0, dataset="digits", temperature=None, recipe=RECIPE, pair="big-small") -> RunSpec:
    if method == "kd" and temperature is None:
        temperature = 4.0
    return RunSpec(
        method=method, hyperparameters={"temperature": temperature} if temperature else {}, pair=pair,
        student=Architecture(model="small"), teacher=TrainedTeacher(run=teacher_spec(dataset, recipe, pair)),
        dataset=dataset, recipe=recipe, seed=seed,
    )


def record(run: RunSpec, accuracy: float | None = None, *, metrics=None, **changes) -> Record:
    """A finished run with that test accuracy."""
    known = {} if accuracy is None else {"test_accuracy": accuracy}
    fields = dict(
        run_id=run.id, role="student", suite="tiny", spec=run, status="ok", metrics={**known, **(metrics or {})},
        seconds=2.0, method_digest="a" * 64, started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:02Z",
    )
    return Record(**{**fields, **changes})


def planned(run: RunSpec, role="student") -> Planned:
    return Planned(suite="tiny", role=role, spec=run)
