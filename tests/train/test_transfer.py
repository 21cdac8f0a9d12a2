"""Training with images without labels: who is given them, what is told of them, and what stays as it was."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.matrices import job, smoke, teacher_job

from kdbench.checks.contract import PAIRS, RECIPE, TRAIN_SIZE, random_images
from kdbench.execution.passes import pass_key
from kdbench.finished.reload import dataset_of, reload
from kdbench.folders import CacheFolder
from kdbench.method import NO_LABEL, Method
from kdbench.networks import build, freeze, weights_sha256
from kdbench.results.store import Store
from kdbench.spec import Transfer
from kdbench.train.trainer import Trainer, prepare
from kdbench.train.worker import run_job

CPU = torch.device("cpu")
HALF, WHOLE = Transfer(images="rest", share=0.5), Transfer(images="rest", share=1.0)
SIZE = {"recipe.train_size": 100, "recipe.epochs": 2}  # of 900


class Kept(Method):
    """Trains on labels, and keeps its batches."""

    name, family, learns_from = "kept", "logit", None

    def __init__(self, ctx):
        super().__init__(ctx)
        self.batches = []

    def losses(self, batch, student, teacher):
        self.batches.append(batch)
        return {"ce": F.cross_entropy(student.logits, batch.labels)}


class Taught(Kept):
    """Learns from the teacher, too."""

    learns_from, unlabelled = "teacher", "beside"


def trained(cls, transfer):
    network = build(PAIRS["convolutional"][0], 6, (3, 32, 32))
    freeze(network)
    method, stream = prepare(cls, {}, PAIRS["convolutional"][1], network, random_images(), RECIPE, 0, CPU,
                             transfer=transfer)
    trainer = Trainer(method, stream, RECIPE)
    trainer.train_epoch()
    return trainer


def test_a_method_that_cannot_learn_from_them_trains_as_if_there_were_none():
    plain, mixed = (trained(Kept, transfer) for transfer in (None, HALF))
    assert weights_sha256(plain.method.student.state_dict()) == weights_sha256(mixed.method.student.state_dict())
    assert mixed.method.ctx.num_train == TRAIN_SIZE and mixed.steps == plain.steps
    assert not torch.any(torch.cat([batch.labels for batch in mixed.method.batches]) < 0)


def test_a_method_that_can_is_told_where_they_are_and_no_label_of_theirs():
    trainer, plain = trained(Taught, HALF), trained(Taught, None)
    ctx = trainer.method.ctx
    assert ctx.num_train == len(ctx.train_labels) == 2 * TRAIN_SIZE and trainer.steps == plain.steps
    assert torch.equal(ctx.train_labels[:TRAIN_SIZE], random_images().train.labels)
    assert (ctx.train_labels[TRAIN_SIZE:] == NO_LABEL).all()
    drawn = ctx.sample(torch.tensor([2, TRAIN_SIZE + 3]))
    assert drawn.labels.tolist() == [int(random_images().train.labels[2]), NO_LABEL]
    for batch in trainer.method.batches:
        behind = batch.positions >= TRAIN_SIZE
        assert torch.equal(batch.labels == NO_LABEL, behind) and int(behind.sum()) == len(behind) // 2


def matrix(tmp_path, cache, *methods, transfer):
    """The records of runs of the smoke suite with these images without labels."""
    plan = smoke(*methods, settings={**SIZE, "transfer.images": "rest", "transfer.share": transfer.share})
    assert {spec.transfer for spec in plan.students} == {transfer}
    run_job(teacher_job(plan, cache))
    return {name: run_job(job(plan, tmp_path, cache, name)) for name in methods}


@pytest.mark.parametrize("transfer", [HALF, WHOLE])
def test_runs_end_well_and_say_what_they_saw(transfer, tmp_path, cache):
    records = matrix(tmp_path, cache, "ce", "kd", transfer=transfer)
    for record in records.values():
        assert record.status == "ok", record.traceback
        assert record.split_sizes == {"train": 100, "unlabelled": 800, "validation": 100, "test": 200}
    counts = Store(tmp_path).read_predictions(records["kd"].run_id)["train_class_counts"]
    assert counts.tolist() == [10] * 10  # of labelled images
    kept = smoke("ce", "kd", settings=SIZE)
    (tmp_path / "plain").mkdir()
    plain = {name: run_job(job(kept, tmp_path / "plain", cache, name)) for name in ("ce", "kd")}
    same = {name: plain[name].weights_sha256 == records[name].weights_sha256 for name in plain}
    assert same == {"ce": True, "kd": False}
    assert (records["kd"].curves["loss.ce"] == [0.0, 0.0]) is (transfer == WHOLE)
    record = records["kd"]
    dataset = dataset_of(record, CacheFolder(cache), "cpu")
    method = smoke("kd").methods["kd"]
    assert reload(record, Store(tmp_path), method, dataset) is not None


def test_kept_answers_of_the_teacher_are_those_of_the_same_batches(tmp_path, cache):
    def plan(**settings):
        return smoke("kd", "dkd", "fitnet", settings={**SIZE, **{f"transfer.{k}": v for k, v in settings.items()}})

    def keys(plan):
        return {spec.method: pass_key(spec, plan.methods[spec.method]) for spec in plan.students}

    plain, half, whole, few = (keys(plan(**settings)) for settings in (
        {}, {"images": "rest"}, {"images": "rest", "share": 1.0}, {"images": "rest", "size": 9}))
    assert half["kd"] == half["fitnet"] != half["dkd"]  # which has labelled images alone
    assert len({one["kd"] for one in (plain, half, whole, few)}) == 4


def test_runs_that_share_answers_of_a_teacher_end_as_those_that_do_not(tmp_path, cache):
    from kdbench.execution.job import PassShare

    shared = smoke("kd", "dkd", settings={**SIZE, "transfer.images": "rest"})
    run_job(teacher_job(shared, cache))
    hashes = []
    for place, kept in (("a", False), ("b", True), ("c", True)):
        (tmp_path / place).mkdir()
        for name in ("kd", "dkd"):
            this = job(shared, tmp_path / place, cache, name)
            share = PassShare(pass_key(this.spec, this.method), ("logits",)) if kept else None
            record = run_job(replace(this, teacher_pass=share))
            assert record.status == "ok" and not record.notes, record.traceback
            hashes.append((name, record.weights_sha256))
    assert len(set(hashes)) == 2
