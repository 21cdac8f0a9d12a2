"""Equal compute from the commands to the tables, on the smoke suite of 3 epochs."""

import json
import re
import shlex

import pytest
from support.matrices import smoke
from support.profiles import profile, training

import kdbench as package
from kdbench.errors import UserError
from kdbench.profile.match import epochs_for
from kdbench.profile.record import Profile, profiles, write_profile
from kdbench.results.store import Store

RUN = ("run", "smoke", "--methods", "ce,kd", "--seeds", "1", "--workers", "1")
MATCHED = (*RUN, "--match", "compute")


def put(folder, **ratios):
    for spec in smoke(*ratios, seeds=1, settings={}).students:
        ratio = ratios[spec.method]
        write_profile(Store(folder), profile(run=spec, training=training(.01 * ratio, ratio)))


def students(folder):
    return {record.spec.method: record for record in Store(folder).read()[0]
            if record.role == "student" and record.spec.equal_compute}


def test_the_command_that_the_error_names_measures_what_was_missing_and_the_run_trains_what_it_says(kdbench, tmp_path):
    code, _, err = kdbench(*MATCHED)
    assert code == 2 and len(err.splitlines()) == 1 and list(tmp_path.iterdir()) == []
    command = shlex.split(err.split("This measures it: ")[1])
    assert command[:3] == ["kdbench", "profile", "smoke"]
    assert kdbench(*command[1:], "--steps", "2", "--repeats", "1")[0] == 0
    assert kdbench(*MATCHED)[0] == 0
    found = students("runs/smoke-compute")
    ratios = {one.spec.method: one.training.step_time_ratio.median for one, _ in profiles(Store("runs/smoke-compute"))
              if isinstance(one, Profile) and one.training}
    for method, record in found.items():
        epochs = epochs_for(3, ratios[method], ratios["kd"])
        assert record.spec.own_recipe.epochs == len(record.curves["loss"]) == epochs
        assert record.curves["validation_epoch"][-1] == epochs
    assert found["kd"].spec.own_recipe.epochs == 3


def test_a_forecast_counts_the_epochs_and_the_run_continues_with_the_same_profiles(kdbench, tmp_path):
    put("out", ce=1.0, kd=2.0)
    options = ("--out", "out")
    forecast = json.loads(kdbench(*MATCHED, *options, "--dry-run", "--json")[1])
    seconds = {row["method"]: row["seconds"] for row in forecast["rows"]}
    assert forecast["runs"] == 2 and seconds["ce"] == pytest.approx(seconds["kd"])  # 6 epochs, and 3 of twice the time
    assert "2 now" in kdbench(*MATCHED, *options)[1]
    assert "2 runs were finished before, 0 now" in kdbench(*MATCHED, *options)[1]
    assert {method: len(one.curves["loss"]) for method, one in students("out").items()} == {"ce": 6, "kd": 3}
    assert kdbench("fsck", "out")[0] == 0
    code, out, _ = kdbench("verify", "out", students("out")["ce"].run_id)
    assert code == 0 and "bit-equal" in out


@pytest.mark.slow
def test_runs_of_other_epochs_share_teacher_passes_and_have_the_same_bits_without(kdbench, tmp_path):
    for folder in ("shared", "alone"):
        put(folder, kd=1.0, at=.5, dkd=2.0)
    command = ("run", "smoke", "--methods", "kd,at,dkd", "--seeds", "1", "--workers", "1", "--match", "compute")
    out = kdbench(*command, "--out", "shared")[1]
    assert "3 runs share the answers of a teacher in 1 pass" in out
    kdbench(*command, "--out", "alone", "--teacher-cache", "0")
    epochs, hashes = ({folder: {method: told(record) for method, record in students(folder).items()}
                       for folder in ("shared", "alone")}
                      for told in (lambda r: len(r.curves["loss"]), lambda r: r.weights_sha256))
    assert epochs["shared"] == {"kd": 3, "at": 6, "dkd": 2} and hashes["shared"] == hashes["alone"]


@pytest.mark.slow
def test_both_regimes_stand_in_one_report_with_a_table_each(kdbench, tmp_path):
    put("out", ce=1.0, kd=2.0)
    assert kdbench(*RUN, "--out", "out")[0] == kdbench(*MATCHED, "--out", "out")[0] == 0
    out = kdbench("leaderboard", "out")[1]
    assert re.findall(r"^(tiny.*)$", out, re.MULTILINE) == ["tiny on synthetic", "tiny on synthetic (equal compute)"]
    assert kdbench("report", "out")[0] == kdbench("report", "--check", "out")[0] == 0


def test_what_whole_epochs_miss_is_said_by_the_run_and_by_its_forecast(kdbench, tmp_path):
    put("out", ce=1.0, kd=1.0, dkd=40.0)
    told = ("note: dkd (tiny, synthetic): 1 epoch, the nearest whole number, are 13.33 times the compute of kd")
    command = ("run", "smoke", "--methods", "dkd", "--seeds", "1", "--match", "compute", "--out", "out")
    assert told in kdbench(*command, "--dry-run")[1] and told in kdbench(*command)[1]


def test_equal_compute_goes_with_no_choices_and_no_other_word(tmp_path):
    for call in (package.run, package.plan):
        with pytest.raises(UserError, match="leave out --tuned"):
            call("smoke", match="compute", tuned=tmp_path, out=tmp_path / "out")
        with pytest.raises(UserError, match="unknown match 'computed'; did you mean 'compute'"):
            call("smoke", match="computed", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
