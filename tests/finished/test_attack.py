import importlib.util

import pytest
import torch
from msgspec.structs import replace
from support.data import Linear, own_labels, random_data
from support.matrices import job, smoke, teacher_job
from support.records import record as fabricated
from support.records import spec

from kdbench.data.stream import Normalise
from kdbench.errors import UserError
from kdbench.finished import attack as module
from kdbench.finished.attack import Attacked, attack, autoattack
from kdbench.finished.evaluate import evaluate
from kdbench.finished.reload import dataset_of
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.results.store import Store
from kdbench.robustness import measure as robustness
from kdbench.train.worker import run_job

CPU = torch.device("cpu")


def go(folder, cache, *runs):
    said = []
    return attack(folder, runs, Registry(), CacheFolder(cache), "cpu", said.append), said


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(robustness, "SUBSET", 10)  # AutoAttack is slow


@pytest.fixture
def record(tmp_path, cache):
    run_job(teacher_job(smoke("ce"), cache))
    return run_job(job(smoke("simkd"), tmp_path, cache, "simkd"))


def test_a_finished_run_gets_the_figure_once_and_keeps_everything_else(tmp_path, cache, record):
    state = torch.get_rng_state()
    result, said = go(tmp_path, cache)
    assert result == Attacked(1, 0, ()) and record.run_id in said[0] and "simkd" in said[0]
    assert torch.equal(torch.get_rng_state(), state)
    after = Store(tmp_path).get(record.run_id)
    accuracy, small = (after.metrics[f"autoattack_{which}accuracy"] for which in ("", "small_"))
    assert 0 <= accuracy <= record.metrics["pgd_accuracy"] + .02  # the stronger attack
    assert accuracy <= small <= record.metrics["pgd_small_accuracy"] + .02
    assert replace(after, metrics=record.metrics, notes=record.notes) == record
    assert go(tmp_path, cache, record.run_id[:6])[0] == Attacked(0, 1, ())
    assert evaluate(tmp_path, CacheFolder(cache)).problems == ()
    assert Store(tmp_path).get(record.run_id).metrics["autoattack_accuracy"] == accuracy


def test_each_figure_is_of_its_own_radius(tmp_path, cache, record, monkeypatch):
    monkeypatch.setattr(module, "autoattack", lambda network, dataset, saved, radius: (radius, []))
    go(tmp_path, cache)
    after = Store(tmp_path).get(record.run_id).metrics
    dataset = dataset_of(record, CacheFolder(cache), "cpu")
    assert after["autoattack_small_accuracy"] == dataset.small_attack_radius
    assert after["autoattack_accuracy"] == dataset.attack_radius > dataset.small_attack_radius


def test_a_record_of_an_older_kdbench_gets_the_radius_that_it_lacks_alone(tmp_path, cache, record, monkeypatch):
    monkeypatch.setattr(module, "autoattack", lambda network, dataset, saved, radius: (radius, []))
    store = Store(tmp_path)
    store.write(replace(record, metrics={**record.metrics, "autoattack_accuracy": .125}))
    assert go(tmp_path, cache)[0] == Attacked(1, 0, ())
    after, dataset = store.get(record.run_id).metrics, dataset_of(record, CacheFolder(cache), "cpu")
    assert (after["autoattack_accuracy"], after["autoattack_small_accuracy"]) == (.125, dataset.small_attack_radius)


def test_a_teacher_is_attacked_with_its_weights_from_the_cache(tmp_path, cache, monkeypatch):
    def agreement(network, dataset, saved, radius):
        images = Normalise(dataset, CPU)(dataset.test.images.take(torch.arange(len(saved))))
        return float((network(images).logits.argmax(1).numpy() == saved).mean()), []

    monkeypatch.setattr(module, "autoattack", agreement)
    teacher = run_job(teacher_job(smoke("ce"), cache))
    store, own = Store(tmp_path), Store(cache / "teachers")
    store.write_predictions(teacher.run_id, own.read_predictions(teacher.run_id))  # as a matrix copies them
    store.write(teacher)
    assert go(tmp_path, cache)[0] == Attacked(1, 0, ())
    after = store.get(teacher.run_id).metrics
    assert after["autoattack_accuracy"] == after["autoattack_small_accuracy"] == 1
    assert own.get(teacher.run_id) == teacher


def test_trials_which_keep_no_network_are_no_problems(tmp_path, cache):
    Store(tmp_path).write(fabricated(spec("kd"), .5, role="trial"))
    assert go(tmp_path, cache) == (Attacked(0, 0, ()), [])


def test_a_network_that_is_not_the_saved_one_or_a_run_that_is_none_is_told(tmp_path, cache, record):
    store = Store(tmp_path)
    with pytest.raises(UserError, match="no single run 'nope'"):
        go(tmp_path, cache, "nope")
    path = store.files.student(record.run_id)
    path.write_bytes(b"x" + path.read_bytes())
    result, _ = go(tmp_path, cache)
    assert result.added == 0 and "damaged" in result.problems[0]
    assert store.get(record.run_id) == record
    with pytest.raises(UserError, match="no records here"):
        go(tmp_path / "absent", cache)


def setting(network, classes):
    dataset = own_labels(network, random_data(40, classes=classes, low=10, high=245))
    object.__setattr__(dataset, "classes", tuple(map(str, range(classes))))
    return dataset, dataset.test.labels.numpy()


def test_against_a_linear_network_it_finds_what_the_closed_form_says():
    network = Linear(classes=4, scale=.05)
    dataset, saved = setting(network, 4)
    logits = network(Normalise(dataset, CPU)(dataset.test.images.images)).logits.detach()
    margin, radius = torch.full((40,), torch.inf), 8 / 255
    for i in range(40):
        own = int(saved[i])
        for other in set(range(4)) - {own}:
            slope = (network.weight[own] - network.weight[other]).detach().abs().sum() / .2
            margin[i] = torch.minimum(margin[i], (logits[i, own] - logits[i, other]) / slope)
    withstand = (margin > radius).float().mean().item()
    assert .2 < withstand < .8
    found, _ = autoattack(network.eval(), dataset, saved, radius)
    assert found == pytest.approx(withstand, abs=.03)


def test_a_changed_network_and_too_few_classes_are_refused():
    network = Linear(classes=4)
    dataset, saved = setting(network, 4)
    with pytest.raises(UserError, match=r"predicts 0\.0 % of the subset as it did"):
        autoattack(network, dataset, (saved + 1) % 4, 8 / 255)
    three, said = setting(Linear(classes=3), 3)
    with pytest.raises(UserError, match="needs 4 classes or more, found 3"):
        autoattack(Linear(classes=3), three, said, 8 / 255)


def test_a_network_that_is_never_right_has_nothing_to_lose():
    network = Linear(classes=4)
    dataset, saved = setting(network, 4)
    said = saved.copy()  # `saved` shares its memory with the labels
    dataset.test.labels.copy_((dataset.test.labels + 1) % 4)
    assert autoattack(network, dataset, said, 8 / 255) == (0.0, [])


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch, kdbench, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *more: None if name == "pyautoattack" else real(name, *more))
    line = "kdbench: AutoAttack is not installed: pip install 'kdbench[attack]'\n"
    assert kdbench("attack", tmp_path) == (2, "", line)
