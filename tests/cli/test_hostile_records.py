"""Records that no kdbench has written: every command gives its result or one line."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from support.records import record, spec, teacher_spec

from kdbench.results.store import Store
from kdbench.spec import RunSpec

HUGE = 10**30
LONG = "a" * 1_000_000
TEACHER = teacher_spec("synthetic")


def predictions(seed):
    generator = np.random.default_rng(seed)
    return {f"{split}_{kind}": array for split in ("validation", "test") for kind, array in (
        ("logits", generator.normal(size=(20, 4)).astype(np.float32)), ("labels", np.arange(20) % 4))}


def save(store, run, seed, accuracy, role="student"):
    store.write(replace(record(run, accuracy, role=role), predictions_sha256=store.write_predictions(
        run.id, predictions(seed))))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder of four good runs and their teacher."""
    store = Store(tmp_path_factory.mktemp("good"))
    for number, method in enumerate(("ce", "kd")):
        for seed in range(2):
            save(store, spec(method, seed, dataset="synthetic"), 2 * number + seed, .25 + .1 * number)
    save(store, TEACHER, 9, .5, "teacher")
    return store.folder


@dataclass
class Hostile:
    """The JSON of a good record with changed fields; those of its spec begin with "spec."."""

    changes: dict

    def content(self) -> tuple[str, bytes]:
        """The name and the content of its file, its run id the right one wherever a spec has any."""
        fields = json.loads(record(spec("kd", 5, dataset="synthetic"), .3).to_json())
        del fields["sha256"]
        for path, value in self.changes.items():
            *parents, last = path.split(".")
            place = fields
            for name in parents:
                place = place[name]
            place[last] = value
        try:
            fields["run_id"] = RunSpec.model_validate_json(json.dumps(fields["spec"]), strict=True).id
        except (ValueError, RecursionError):
            fields["run_id"] = hashlib.sha256(str(self.changes).encode()).hexdigest()[:16]
        return fields["run_id"], json.dumps(fields).encode()


def nested(depth):
    return b"[" * depth + b"]" * depth


REFUSED = {
    "pair null": {"spec.pair": None}, "pair a number": {"spec.pair": 5},
    "seed text": {"spec.seed": "0"}, "seed negative": {"spec.seed": -1}, "seed a share": {"spec.seed": .5},
    "seed true": {"spec.seed": True}, "method a list": {"spec.method": ["kd"]}, "method null": {"spec.method": None},
    "dataset an object": {"spec.dataset": {}}, "hyperparameters a list": {"spec.hyperparameters": [1]},
    "hyperparameters null": {"spec.hyperparameters": None},
    "hyperparameter an object": {"spec.hyperparameters": {"temperature": {}}},
    "recipe text": {"spec.recipe": "long"}, "recipe empty": {"spec.recipe": {}},
    "epochs text": {"spec.recipe.epochs": "2"}, "epochs true": {"spec.recipe.epochs": True},
    "learning rate negative": {"spec.recipe.lr": -1},
    "teacher of a kind alone": {"spec.teacher": {"kind": "hub"}}, "teacher of no kind": {"spec.teacher": {}},
    "student null": {"spec.student": None}, "spec null": {"spec": None}, "spec a list": {"spec": []},
    "unknown field": {"colour": "blue"}, "unknown field of the spec": {"spec.colour": "blue"},
    "metric 1e308": {"metrics.nll": 1e308}, "unknown metric 1e308": {"metrics.mine": -1e308},
    "accuracy -5": {"metrics.test_accuracy": -5}, "accuracy 1.5": {"metrics.test_accuracy": 1.5},
    "accuracy text": {"metrics.test_accuracy": "0.9"}, "accuracy null": {"metrics.test_accuracy": None},
    "accuracy true": {"metrics.test_accuracy": True}, "accuracy huge": {"metrics.test_accuracy": HUGE},
    "NLL negative": {"metrics.nll": -1}, "change of -1.5": {"metrics.worst_class_change": -1.5},
    "metrics a list": {"metrics": []}, "metrics null": {"metrics": None},
    "curve 1e308": {"curves": {"loss": [1e308, 1e308]}}, "curve text": {"curves": {"loss": "high"}},
    "vector 1e308": {"vectors": {"class_accuracy": [1e308]}},
    "seconds negative": {"seconds": -1}, "seconds text": {"seconds": "long"}, "seconds 1e308": {"seconds": 1e308},
    "memory huge": {"peak_memory_bytes": HUGE}, "memory negative": {"peak_memory_bytes": -1},
    "memory true": {"peak_memory_bytes": True}, "status missing": {"status": "missing"}, "status 5": {"status": 5},
    "role judge": {"role": "judge"}, "started never": {"started": "never"}, "suite null": {"suite": None},
    "schema 1.5": {"schema_version": 1.5}, "schema huge": {"schema_version": HUGE},
    "schema true": {"schema_version": True}, "notes a number": {"notes": 5}, "environment a list": {"environment": []},
}
ACCEPTED = {
    "seed huge": {"spec.seed": HUGE}, "protocol huge": {"spec.protocol": HUGE}, "pair empty": {"spec.pair": ""},
    "pair of a megabyte": {"spec.pair": LONG}, "pair with NUL": {"spec.pair": "a\0b"},
    "pair of lines": {"spec.pair": "a\n# b\r\n\x1b[31m"}, "method of a megabyte": {"spec.method": LONG},
    "method with NUL": {"spec.method": "k\0d"}, "method of lines": {"spec.method": "k\nd\x1b[2J"},
    "method empty": {"spec.method": ""}, "dataset with NUL": {"spec.dataset": "a\0b"},
    "dataset unknown": {"spec.dataset": "nothing+skew(9)"}, "dataset a path": {"spec.dataset": "imagefolder:/\0"},
    "dataset of a megabyte": {"spec.dataset": LONG}, "model with markup": {"spec.student.model": "<script>"},
    "arguments nested": {"spec.student.kwargs": {"a": [[[{}]]]}}, "epochs huge": {"spec.recipe.epochs": HUGE},
    "image size huge": {"spec.recipe.image_size": HUGE}, "hyperparameter huge": {"spec.hyperparameters": {"a": HUGE}},
    "hyperparameter's name": {"spec.hyperparameters": {"\0\n": 1}}, "hyperparameter text": {
        "spec.hyperparameters": {"temperature": "hot"}},
    "teacher's architecture": {"spec.teacher": {"kind": "hub", "architecture": {"model": "x\0", "kwargs": {}},
                                                "tag": "\n"}},
    "teacher's file": {"spec.teacher": {"kind": "file", "architecture": {"model": "x", "kwargs": {}},
                                        "path": "\0", "sha256": "none"}},
    "no teacher": {"spec.teacher": None}, "family of lines": {"family": "a\nb"}, "reason of a megabyte": {
        "status": "crashed", "reason": LONG}, "reason of lines": {"status": "crashed", "reason": "a\n\n# b"},
    "crashed without a reason": {"status": "crashed", "reason": None}, "finished without metrics": {"metrics": {}},
    "metric with NUL": {"metrics.a\0b": .5}, "curves without values": {"curves": {"loss": []}},
    "curves of other lengths": {"curves": {"loss": [1.0], "validation_accuracy": [.1] * 100}},
    "curves at other epochs": {"curves": {"validation_epoch": [-1.5, -1.5, 1e300], "validation_accuracy": [.1] * 100}},
    "vectors without values": {"vectors": {"class_accuracy": [], "reliability_images": []}},
    "vectors of other lengths": {"vectors": {"class_accuracy": [.5] * 3, "reliability_images": [1],
                                             "reliability_correct": [], "reliability_confidence": [1, 2]}},
    "vectors of nulls": {"vectors": {"class_accuracy": [None] * 4, "reliability_images": [None] * 15,
                                     "reliability_correct": [None] * 15, "reliability_confidence": [None] * 15}},
    "groups without a vector": {"groups": {"colour": ["red", "blue"]}}, "groups with NUL": {"groups": {"\0": ["\0"]}},
    "environment of numbers": {"environment": {"torch": 5, "hardware": None, "threads": "many"}},
    "digests of words": {"weights_sha256": "w", "predictions_sha256": "p", "dataset_digest": "d\n"},
    "method's digest of lines": {"method_digest": "a\nb"}, "suite of lines": {"suite": "a\n| b |"},
    "a teacher's role": {"role": "teacher"},
}
FILES = {
    "nested deep": nested(100_000), "empty": b"", "NULs": bytes(100), "a number": b"5", "lone bytes": b"\xff\xfe",
    "nested deep in a field": Hostile({"notes": "X"}).content()[1].replace(b'"X"', nested(100_000)),
    "nested deep in the spec": Hostile({"spec.student.kwargs": "X"}).content()[1].replace(
        b'"X"', b'{"a":' + nested(100_000) + b"}"),
    "nested in the spec": Hostile({"spec.student.kwargs": "X"}).content()[1].replace(
        b'"X"', b'{"a":' + nested(150) + b"}"),
    "a key twice": Hostile({}).content()[1].replace(b'{"suite"', b'{"suite": "other", "suite"', 1),
    "a spec's key twice": Hostile({}).content()[1].replace(b'"protocol"', b'"protocol": 5, "protocol"', 1),
    "a lone surrogate": Hostile({"spec.pair": "X"}).content()[1].replace(b'"X"', b'"\\ud800"'),
    "a lone surrogate as a metric's name": Hostile({}).content()[1].replace(
        b'"test_accuracy"', b'"\\ud800": 1, "test_accuracy"'),
    "an integer of 10,000 digits": Hostile({"spec.seed": "X"}).content()[1].replace(b'"X"', b"9" * 10_000),
    "a metric of 10,000 digits": Hostile({"metrics.nll": "X"}).content()[1].replace(b'"X"', b"9" * 10_000),
    "NaN": Hostile({"metrics.nll": float("nan")}).content()[1],
    "Infinity": Hostile({"metrics.nll": float("inf")}).content()[1],
}


def put(folder: Path, name: str, content: bytes) -> Path:
    path = Store(folder).files.record(name)
    path.write_bytes(content)
    return path


def beside(good: Path, folder: Path) -> Path:
    """A copy of the good folder, of links: quick to make."""
    for path in good.rglob("*"):
        copy = folder / path.relative_to(good)
        copy.mkdir(parents=True) if path.is_dir() else copy.write_bytes(path.read_bytes())
    return folder


def calls(kdbench, *commands):
    """Every command ends with its result or one line, `evaluate` with one for each record that it leaves alone."""
    for command in commands:
        code, out, err = kdbench(*command)
        assert code in (0, 1, 2) and "Traceback" not in out + err, (command, out, err)
        lines = err.splitlines()
        assert code == 0 or len(lines) == 1 or all(line.startswith("not evaluated: ") for line in lines), command


CASES = {**{name: Hostile(changes).content() for name, changes in {**REFUSED, **ACCEPTED}.items()},
         **{name: (f"{number:016x}", content) for number, (name, content) in enumerate(FILES.items())}}


@pytest.mark.parametrize("case", CASES)
def test_beside_a_hostile_record_every_command_gives_its_result_or_one_line(kdbench, tmp_path, good, case):
    folder = beside(good, tmp_path / "out")
    path = put(folder, *CASES[case])
    calls(kdbench, *([command, folder] for command in ("leaderboard", "cite", "evaluate")),
          ["card", folder, path.stem], ["card", folder, spec("ce", dataset="synthetic").id])


@pytest.mark.parametrize("case", [*REFUSED, *(name for name in FILES if "twice" not in name and "150" not in name)])
def test_a_record_that_cannot_be_true_is_named_and_left_out(tmp_path, good, case):
    folder = beside(good, tmp_path / "out")
    path = put(folder, *CASES[case])
    records, problems = Store(folder).read()
    assert [problem.path for problem in problems] == [path] and len(records) == 5
    assert problems[0].reason and "\n" not in problems[0].reason and len(problems[0].reason) < 1000


def test_a_report_beside_all_hostile_records_is_written_or_refused_in_one_line(kdbench, tmp_path, good, monkeypatch):
    monkeypatch.setattr("kdbench.report.plots.plots", lambda leaderboard, details: [])  # their own test is below
    folder = beside(good, tmp_path / "out")
    for name, content in CASES.values():
        put(folder, name, content)
    calls(kdbench, ["leaderboard", folder], ["report", folder], ["cite", folder], ["evaluate", folder])


@pytest.mark.parametrize("case", [name for name in ACCEPTED if name.startswith(("curves", "vectors", "groups"))])
def test_plots_of_hostile_curves_and_vectors_are_drawn_or_refused_in_one_line(kdbench, tmp_path, good, case):
    folder = beside(good, tmp_path / "out")
    put(folder, *CASES[case])
    calls(kdbench, ["report", folder])


def test_a_matrix_beside_hostile_records_is_run_to_its_end(kdbench, tmp_path, good):
    folder = beside(good, tmp_path / "out")
    for name, content in CASES.values():
        put(folder, name, content)
    command = ["run", "smoke", "--methods", "ce", "--seeds", "1", "--set", "recipe.epochs=1", "--out", folder]
    code, out, err = kdbench(*command)
    assert code == 0 and "Traceback" not in out + err, (out, err)
    assert "1 now" in out and "was set aside" in out
