"""What trackers show of runs, and that they can cost none."""

import json
import sys
import threading
from types import SimpleNamespace

import pytest
from support.records import record, spec
from tensorboardX.proto.event_pb2 import Event

from kdbench.errors import UserError
from kdbench.execution import trackers
from kdbench.execution.trackers import make_trackers, points, tracked

RECORD = record(spec("kd"), .9, metrics={"ece": .1}, curves={
    "loss": [3.0, 2.0, 1.0, .5], "validation_accuracy": [.5, .8], "validation_epoch": [2.0, 4.0]})


def events(file):
    """The events of a file: each an eight-byte length, a four-byte check, the event and another check."""
    content = file.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12:12 + size])
        content = content[16 + size:]


def test_points_have_each_curve_at_its_epochs_and_the_metrics_at_the_last():
    assert dict(points(RECORD)) == {
        1: {"curve/loss": 3.0}, 2: {"curve/loss": 2.0, "curve/validation_accuracy": .5}, 3: {"curve/loss": 1.0},
        4: {"curve/loss": .5, "curve/validation_accuracy": .8, "metric/test_accuracy": .9, "metric/ece": .1,
            "metric/seconds": 2.0}}


def test_tensorboard_gets_event_files_beside_the_results(tmp_path):
    (board,) = make_trackers(["tensorboard"], tmp_path / "quick", "quick")
    board.show(RECORD)
    (file,) = (tmp_path / "quick-tensorboard").rglob("events.*")
    assert file.parent.name == f"kd big-small digits seed 0 {RECORD.run_id}"
    scalars = [(value.tag, event.step, round(value.simple_value, 6)) for event in events(file)
               for value in event.summary.value if value.HasField("simple_value")]
    assert ("curve/loss", 1, 3.0) in scalars and ("metric/test_accuracy", 4, .9) in scalars and len(scalars) == 9


def test_what_speaks_the_interface_of_wandb_gets_the_run_its_config_and_its_points(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(
        init=lambda **told: calls.append(("init", told)), finish=lambda: calls.append("finish"),
        log=lambda values, step: calls.append((step, values))))
    (tracker,) = make_trackers(["wandb"], tmp_path, "quick")
    tracker.show(RECORD)
    (_, begun), *logged, last = calls
    assert begun["project"] == "kdbench-quick" and begun["config"]["method"] == "kd" and json.dumps(begun["config"])
    assert dict(logged) == dict(points(RECORD)) and last == "finish"


def test_a_tracker_that_raises_is_named_once_and_left_out_and_the_others_go_on():
    class Broken:
        def show(self, record):
            raise ConnectionError("no server\nthere")

    shown, said = [], []
    good = SimpleNamespace(show=lambda record: shown.append(record.run_id))
    with tracked([Broken(), good], said.append) as show:
        show(RECORD)
        show(RECORD)
    assert shown == [RECORD.run_id] * 2
    assert said == ["note: Broken shows no further runs: ConnectionError: no server there"]


def test_a_tracker_that_hangs_holds_nothing_up_and_what_it_missed_is_said(monkeypatch):
    monkeypatch.setattr(trackers, "FLUSH_SECONDS", .1)
    said, free = [], threading.Event()
    with tracked([SimpleNamespace(show=lambda record: free.wait())], said.append) as show:
        for _ in range(3):
            show(RECORD)
    free.set()
    assert said == ["note: trackers were not done after 0 s; 2 runs are not shown"]


@pytest.mark.parametrize(("name", "message"), [
    ("tensorbord", "unknown tracker 'tensorbord'; did you mean 'tensorboard'"),
    ("wandb", "--track wandb: it is not installed: pip install wandb"),
])
def test_a_tracker_that_cannot_be_had_is_a_user_error(tmp_path, monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=message):
        make_trackers([name], tmp_path, "quick")
