import re

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from support.matrices import job, smoke, teacher_job

from kdbench.data.stream import Normalise
from kdbench.errors import UserError
from kdbench.finished.reload import dataset_of, reload
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.results.store import Store
from kdbench.train.scoring import predict
from kdbench.train.worker import run_job

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def teacher(cache):
    return run_job(teacher_job(smoke("ce"), cache))


def predicted(network, dataset, recipe):
    return predict(network, dataset.test, Normalise(dataset, CPU), recipe.image_size)


@pytest.mark.parametrize("method", ["kd", "simkd"])  # the student alone, and a composite with a part of the teacher
def test_a_reloaded_network_predicts_what_was_saved_even_if_its_teacher_is_gone(tmp_path, cache, method):
    store = Store(tmp_path)
    record = run_job(job(smoke(method), tmp_path, cache, method))
    gone = Store(cache / "teachers").files.student(record.spec.teacher.run.id)
    aside = gone.rename(gone.with_suffix(".aside"))
    try:
        torch.manual_seed(99)  # other than what the run left
        state = torch.get_rng_state()
        dataset = dataset_of(record, CacheFolder(cache), "cpu")
        network = reload(record, store, Registry()[method], dataset)
    finally:
        aside.rename(gone)
    logits = predicted(network, dataset, record.spec.recipe)
    assert np.array_equal(logits, store.read_predictions(record.run_id)["test_logits"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_a_teacher_is_reloaded_from_the_store_of_teachers(cache, teacher):
    store = Store(cache / "teachers")
    dataset = dataset_of(teacher, CacheFolder(cache), "cpu")
    network = reload(teacher, store, Registry()["ce"], dataset)
    logits = predicted(network, dataset, teacher.spec.recipe)
    assert np.array_equal(logits, store.read_predictions(teacher.run_id)["test_logits"])


def test_what_cannot_be_reloaded_is_told_in_a_line(tmp_path, cache):
    store, method = Store(tmp_path), Registry()["ce"]
    record = run_job(job(smoke("ce"), tmp_path, cache, "ce"))
    dataset = dataset_of(record, CacheFolder(cache), "cpu")
    with pytest.raises(UserError, match="has no network: its status is 'diverged'"):
        reload(replace(record, status="diverged"), store, method, dataset)
    with pytest.raises(UserError, match=re.escape("is not what it was when the run was made")):
        dataset_of(replace(record, dataset_digest="0" * 64), CacheFolder(cache), "cpu")
    with pytest.raises(UserError, match="not the weights of what simkd deploys; the method's source changed since"):
        reload(replace(record, spec=record.spec.model_copy(update={"method": "simkd"})), store,
               Registry()["simkd"], dataset)
    path = store.files.student(record.run_id)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        reload(record, store, method, dataset)
    path.unlink()
    with pytest.raises(UserError, match="no saved network"):
        reload(record, store, method, dataset)
