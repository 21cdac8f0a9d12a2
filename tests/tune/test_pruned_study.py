"""Studies with a pruner, from the command line."""

import json
from pathlib import Path
from statistics import median

import pytest
from support.studies import killed, study, told

from kdbench.disk import json_files
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.tune.choice import read_choices

pytestmark = pytest.mark.slow

EPOCHS = 5
OPTIONS = ("--methods", "kd", "--set", f"recipe.epochs={EPOCHS}", "--trials", "9", "--sampler-seed", "8",
           "--pruner", "median")  # three batches, the last of one trial


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A study by one worker, and what it printed."""
    folder = tmp_path_factory.mktemp("pruned") / "one"
    return folder, study(folder, tmp_path_factory.getbasetemp() / "cache", *OPTIONS, "--workers", "1")


def test_each_run_ends_where_it_is_below_the_median_of_the_trials_of_earlier_batches(pruned):
    """Told by the records alone: the medians are taken here again."""
    folder, _ = pruned
    store, (choice,) = Store(folder), read_choices(folder).choices
    runs = [[store.get(one) for one in trial.runs] for trial in choice.trials]
    statuses = [[run.status for run in own] for own in runs]
    assert all(one == ["ok", "ok"] for one in statuses[:4]) and ["ok", "ok"] in statuses[4:]
    assert any("pruned" in own for own in statuses[4:8]) and "pruned" in statuses[8]
    for number, own in enumerate(runs):
        earlier = [one for one in runs[:number // 4 * 4] if all(run.status == "ok" for run in one)]
        for place, run in enumerate(own):
            accuracies = run.curves["validation_accuracy"]
            medians = {epoch: median(one[place].curves["validation_accuracy"][epoch - 1] for one in earlier)
                       for epoch in range(2, EPOCHS)} if earlier else {}
            behind = [epoch for epoch in medians
                      if epoch <= len(accuracies) and max(accuracies[:epoch]) < medians[epoch]]
            assert behind == ([len(accuracies)] if run.status == "pruned" else [])
            assert not behind or f"is below {medians[behind[0]]:.2%}, the median" in run.reason
            assert run.status == "pruned" or len(accuracies) == EPOCHS


def test_the_saved_steps_are_in_the_choices_and_in_the_line_of_the_method(pruned):
    folder, printed = pruned
    (choice,) = read_choices(folder).choices
    records = [record for record in Store(folder).read()[0] if record.role == "trial"]
    taken = sum(len(record.curves["loss"]) for record in records)
    assert 0 < choice.saved == pytest.approx(1 - taken / (18 * EPOCHS))
    header, line = [one for one in printed.splitlines() if one.startswith(("method ", "kd  "))][-2:]
    counts = [sum(trial.status == status for trial in choice.trials) for status in ("failed", "pruned")]
    assert header.split()[3:7] == ["trials", "failed", "pruned", "saved"]
    assert line.split()[3:6] == ["9", *map(str, counts)] and f"{choice.saved:.0%} of the steps" in line


def test_a_study_records_its_pruner(pruned):
    written = json.loads((pruned[0] / "tune" / "study.json").read_text())["shared"]
    assert written["pruner"] == "median" and written["pruner_settings"] == {"first_trials": 4, "warmup": 0.25}
    assert read_choices(pruned[0]).study == written


@pytest.mark.slow
def test_a_pruned_study_is_the_same_with_two_workers_and_killed_in_each_batch(pruned, tmp_path, cache):
    folder, _ = pruned
    killed(tmp_path / "killed", cache, [(4, 0.2), (11, 0.2), (17, 0.1)], *OPTIONS, "--workers", "2")
    assert told(tmp_path / "killed") == told(folder)
    ours, theirs = Store(folder), Store(tmp_path / "killed")
    for path in json_files(folder / "records"):
        own, other = ours.get(Path(path).stem), theirs.get(Path(path).stem)
        assert isinstance(own, Record) and isinstance(other, Record)
        assert (own.status, own.reason, own.curves) == (other.status, other.reason, other.curves)


def test_a_finished_pruned_study_trains_nothing_and_says_the_same_again(pruned, kdbench):
    folder, printed = pruned
    before = {path: Path(path).stat().st_mtime_ns for path in json_files(folder / "records")}
    said = (folder / "tune" / "choices.json").read_bytes()
    code, out, _ = kdbench("tune", "smoke", *OPTIONS, "--out", folder)
    assert code == 0 and "[1/" not in out and out.strip() in printed
    assert {path: Path(path).stat().st_mtime_ns for path in json_files(folder / "records")} == before
    assert (folder / "tune" / "choices.json").read_bytes() == said


def test_a_folder_of_pruned_trials_is_refused_without_the_pruner_and_left_as_it_is(pruned, kdbench):
    said = (pruned[0] / "tune" / "study.json").read_bytes()
    code, _, err = kdbench("tune", "smoke", *OPTIONS[:-2], "--out", pruned[0])
    assert code == 2 and "it holds another study: pruner is median there and None here" in err
    assert (pruned[0] / "tune" / "study.json").read_bytes() == said


def test_a_folder_of_pruned_trials_is_sound(pruned, kdbench):
    code, out, _ = kdbench("fsck", pruned[0])
    assert code == 0 and "0 foreign" in out and "0 missing" in out and "0 orphaned" in out


def test_optunas_journal_tells_which_trials_were_pruned(pruned):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    (choice,) = read_choices(pruned[0]).choices
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(pruned[0] / "tune" / "journal.log")))
    (name,) = optuna.get_all_study_names(storage)
    states = [trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials]
    assert states == ["PRUNED" if trial.status == "pruned" else "COMPLETE" for trial in choice.trials]
