"""A teacher's kept answers: the same bits as the network's, whatever happens to the files."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.matrices import job, plugin, smoke, teacher_job

from kdbench.checks.contract import PAIRS, RECIPE, TEXT_RECIPE, random_images, random_texts
from kdbench.data import array_cache
from kdbench.environment import version
from kdbench.execution.job import PassShare
from kdbench.folders import CacheFolder, PassFolder
from kdbench.method import Method
from kdbench.networks import build, freeze, weights_sha256
from kdbench.results.store import Store
from kdbench.train import checkpoint
from kdbench.train.teacher_pass import Keep, find_pass
from kdbench.train.trainer import Trainer, prepare
from kdbench.train.worker import run_job

CPU = torch.device("cpu")
ALL = ("logits", "embedding", "stages")


class Learner(Method):
    """Learns from the parts of the teacher's answer that it is told, and remembers the answers."""

    name, family = "learner", "logit"

    def __init__(self, ctx, *, parts: str = "logits", spoil: bool = False):
        super().__init__(ctx)
        self.parts, self.spoil, self.answers = parts.split(), spoil, []

    def losses(self, batch, student, teacher):
        self.answers.append(teacher)
        terms = {"ce": F.cross_entropy(student.logits, batch.labels)}
        for part in self.parts:
            taught = getattr(teacher, part)
            terms[part] = sum(t.square().mean() for t in taught) * student.logits.square().mean() \
                if part == "stages" else taught.square().mean() * student.logits.square().mean()
        return terms

    def step(self, batch, optimizers):
        if self.spoil:
            batch.images.mul_(1.5)
        return super().step(batch, optimizers)


class Count:
    """A number of images, which copies of a network share."""

    images = 0

    def __deepcopy__(self, memo):
        return self


class Counted(torch.nn.Module):
    """A teacher that counts the images that it and its copies are shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.count = network, Count()
        self.shapes = network.shapes

    def forward(self, images):
        self.count.images += len(images)
        return self.network(images)


def a_teacher(seed=7, pair="convolutional"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dataset, _ = data_of(pair)
        return freeze(build(PAIRS[pair][0], len(dataset.classes), dataset.image_shape))


def data_of(pair):
    return (random_texts(), TEXT_RECIPE) if pair == "text" else (random_images(), RECIPE)


def trained(keep=None, epochs=RECIPE.epochs, teacher=None, pair="convolutional", **hyperparameters):
    """A trainer after its epochs, and how many images its teacher's network was shown."""
    counted = Counted(teacher if teacher is not None else a_teacher(pair=pair))
    dataset, recipe = data_of(pair)
    method, stream = prepare(Learner, hyperparameters, PAIRS[pair][1], counted, dataset, recipe, 0, CPU, keep=keep)
    trainer = Trainer(method, stream, recipe)
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer, counted.count.images


def weights(trainer):
    return weights_sha256(trainer.method.student.state_dict())


@pytest.fixture
def notes():
    return []


@pytest.fixture
def keep(tmp_path, notes):
    return Keep(PassFolder(tmp_path / "pass"), ALL, notes.append)


def pieces(keep, tensor="logits"):
    return sorted(keep.folder.tensor(tensor).iterdir())


@pytest.mark.parametrize("pair", list(PAIRS))
def test_weights_are_the_same_with_written_with_read_and_without_kept_answers(keep, notes, pair):
    parts = "logits embedding stages"
    live, shown = trained(pair=pair, parts=parts)
    writing, shown_writing = trained(keep, pair=pair, parts=parts)
    reading, shown_reading = trained(keep, pair=pair, parts=parts)
    assert weights(live) == weights(writing) == weights(reading)
    assert shown == shown_writing == live.steps * live.stream.batch_size
    assert shown_reading == live.stream.batch_size  # the first answer, which is compared with the kept one
    assert notes == []


def test_kept_answers_have_the_bits_and_the_memory_format_of_the_network_s(keep, notes):
    first, _ = trained(keep, parts="logits embedding stages")
    again, shown = trained(keep, parts="logits embedding stages")
    assert notes == [] and shown == again.stream.batch_size  # they were read
    for computed, read in zip(first.method.answers, again.method.answers, strict=True):
        for a, b in ((computed.logits, read.logits), (computed.embedding, read.embedding),
                     *zip(computed.stages, read.stages, strict=True)):
            assert torch.equal(a, b) and a.stride() == b.stride() and b.data_ptr() % 64 == a.data_ptr() % 64
    assert any(not stage.is_contiguous() for stage in again.method.answers[-1].stages)  # channels last


def test_answers_are_counted_as_passes_of_the_teacher_wherever_they_come_from(keep):
    relative = [trained(k, parts="logits stages")[0].relative_passes() for k in (None, keep, keep)]
    assert relative[0] == relative[1] == relative[2] == {"student_passes": 1.0, "teacher_passes": 1.0}


def test_stages_are_kept_only_if_a_method_touches_them(keep):
    trained(keep)
    assert sorted(path.name for path in keep.folder.root.iterdir()) == ["embedding", "logits"]
    trained(keep, parts="stages")
    assert {path.name for path in keep.folder.root.iterdir()} > {"stages0"}


def test_a_part_that_is_not_kept_is_computed_once_for_each_answer(keep):
    live, _ = trained(parts="stages embedding")
    trained(keep)
    for path in pieces(keep, "embedding"):
        path.unlink()
    reading, shown = trained(Keep(keep.folder, (), keep.note), parts="stages embedding")
    assert weights(reading) == weights(live) and shown == live.steps * live.stream.batch_size
    assert not keep.folder.tensor("stages0").exists() and pieces(keep, "embedding") == []


def test_a_run_that_may_add_nothing_writes_nothing_and_reads_what_is_there(keep, tmp_path):
    reader = Keep(keep.folder, (), keep.note)
    live, shown = trained(reader)
    assert not keep.folder.root.exists()
    trained(keep)
    reading, shown_reading = trained(reader)
    assert weights(reading) == weights(live) and shown_reading < shown


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another_shape(path):
    array_cache.write(path, np.zeros((1, 3), np.float32))


def another_type(path):
    array_cache.write(path, array_cache.read(path).astype(np.float64))


DAMAGES = {
    "flipped": flip_a_bit, "cut": lambda path: os.truncate(path, path.stat().st_size // 2), "emptied":
    lambda path: path.write_bytes(b""), "of another shape": another_shape, "of another type": another_type,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_piece_is_computed_again_written_anew_and_told(keep, notes, damage):
    live, _ = trained(parts="logits embedding")
    trained(keep, parts="logits embedding")
    intact = [path.read_bytes() for path in pieces(keep)]
    DAMAGES[damage](pieces(keep)[-1])
    reading, _ = trained(keep, parts="logits embedding")
    assert weights(reading) == weights(live)
    assert len(notes) == 1 and notes[0].startswith("a piece of the teacher pass is computed again: ")
    assert [path.read_bytes() for path in pieces(keep)] == intact


@pytest.mark.parametrize("lost", ["first", "last", "all", "folder in its place"])
def test_lost_pieces_are_computed_again(keep, notes, lost):
    live, _ = trained()
    trained(keep)
    for path in {"first": pieces(keep)[:1], "last": pieces(keep)[-1:]}.get(lost, pieces(keep)):
        path.unlink()
        if lost == "folder in its place":
            path.mkdir()
    reading, _ = trained(keep)
    assert weights(reading) == weights(live) and notes == []
    assert all(path.is_file() for path in pieces(keep) if ".corrupt" not in path.name)


def test_a_pass_of_another_teacher_is_found_out_and_left_alone(keep, notes):
    other = a_teacher(seed=8)
    trained(keep, teacher=other)
    before = [path.read_bytes() for path in pieces(keep)]
    live, _ = trained()
    reading, _ = trained(keep)
    assert weights(reading) == weights(live)
    assert notes == ["the teacher pass pass has other logits than this teacher: it was not used"]
    assert [path.read_bytes() for path in pieces(keep)] == before


def test_images_that_a_method_changed_go_to_the_network(keep):
    live, shown = trained(spoil=True)
    kept, shown_kept = trained(keep, spoil=True)
    assert weights(kept) == weights(live) and shown_kept == shown and not keep.folder.root.exists()


def test_where_nothing_can_be_written_the_run_goes_on_and_tells_it_once(keep, notes, monkeypatch):
    def full(path, array):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(array_cache, "write", full)
    live, _ = trained()
    kept, _ = trained(keep)
    assert weights(kept) == weights(live)
    assert len(notes) == 2 and all("the teacher pass cannot be kept" in note for note in notes)  # logits, embedding


def test_a_method_may_replace_and_unpack_the_parts_of_a_kept_answer(keep):
    trained(keep)
    answer = trained(keep)[0].method.answers[-1]
    replaced = answer._replace(logits=torch.zeros(1))
    assert torch.equal(replaced.logits, torch.zeros(1)) and replaced.stages is answer.stages
    logits, embedding, stages = answer
    assert logits is answer.logits and embedding is answer[1] and stages is answer.stages and len(answer) == 3


# In a run.

def kept_job(plan, out, cache, method="kd", parts=ALL):
    return replace(job(plan, out, cache, method), teacher_pass=PassShare("key", parts))


@pytest.fixture
def own_cache(tmp_path):
    record = run_job(teacher_job(smoke("ce"), tmp_path / "cache"))
    assert record.status == "ok", record.traceback
    return tmp_path / "cache"


def the_pass(cache):
    (folder,) = CacheFolder(cache).passes.iterdir()
    return PassFolder(folder)


@pytest.mark.parametrize("method", ["kd", "at"])  # logits, and stages
def test_records_are_the_same_with_and_without_a_pass(tmp_path, method, device):
    plan, cache = smoke(method, device=device), tmp_path / "cache"
    assert run_job(teacher_job(plan, cache)).status == "ok"
    records = [run_job(job(plan, tmp_path / "live", cache, method)),
               run_job(kept_job(plan, tmp_path / "writing", cache, method)),
               run_job(kept_job(plan, tmp_path / "reading", cache, method))]
    assert {record.status for record in records} == {"ok"}
    assert len({record.weights_sha256 for record in records}) == len({r.predictions_sha256 for r in records}) == 1
    assert records[0].metrics == records[1].metrics == records[2].metrics and records[2].notes == []


def test_a_pass_says_what_made_it(tmp_path, own_cache):
    run_job(kept_job(smoke("kd"), tmp_path / "out", own_cache))
    note = json.loads(the_pass(own_cache).note.read_text())
    assert (note["key"], note["pair"], note["dataset"], note["seed"]) == ("key", "tiny", "synthetic", 0)
    assert note["made_of"]["torch"] == version("torch")


def test_a_run_killed_in_the_middle_of_a_pass_and_continued_ends_with_the_same_weights(tmp_path, own_cache,
                                                                                         monkeypatch):
    plan = smoke("kd")
    live = run_job(job(plan, tmp_path / "live", own_cache, "kd"))
    save = checkpoint.save

    def die(path, state):
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "save", die)
    with pytest.raises(KeyboardInterrupt):
        run_job(kept_job(plan, tmp_path / "kept", own_cache))
    monkeypatch.setattr(checkpoint, "save", save)
    written = len(list((the_pass(own_cache).tensor("logits")).iterdir()))
    continued = run_job(kept_job(plan, tmp_path / "kept", own_cache))
    assert continued.weights_sha256 == live.weights_sha256
    assert len(list((the_pass(own_cache).tensor("logits")).iterdir())) > written > 0


def test_a_damaged_piece_is_told_in_the_record(tmp_path, own_cache):
    plan = smoke("kd")
    first = run_job(kept_job(plan, tmp_path / "a", own_cache))
    flip_a_bit(sorted((the_pass(own_cache).tensor("logits")).iterdir())[-1])
    again = run_job(kept_job(plan, tmp_path / "b", own_cache))
    assert again.weights_sha256 == first.weights_sha256 and "computed again" in again.notes[0]


def test_runs_find_one_pass_exactly_if_their_teachers_answer_alike(tmp_path):
    cache, dataset = CacheFolder(tmp_path), random_images()
    spec = smoke("kd").students[0]

    def folder(teacher=None, **changes):
        recipe = spec.recipe.model_copy(update=changes.pop("recipe", {}))
        one = spec.model_copy(update={"recipe": recipe, **changes})
        share = PassShare("key", ())
        return find_pass(cache, one, share, teacher or a_teacher(), dataset, print).folder.root.name

    same = folder()
    assert folder(method="dkd") == folder(recipe={"epochs": 50}) == folder(recipe={"lr": 0.5}) == same
    others = [folder(seed=1), folder(teacher=a_teacher(seed=8)), folder(recipe={"batch_size": 16}),
              folder(recipe={"augment": ("flip",)}), folder(recipe={"precision": "bfloat16"}),
              folder(device="cpu-portable")]
    assert len({same, *others}) == 7
    assert not cache.passes.exists()  # only a run that may add something writes


def test_a_plugin_that_draws_random_numbers_gets_the_same_ones_with_a_pass(tmp_path, own_cache):
    plan = smoke("mine", plugins=[plugin(tmp_path, "teacher.logits * torch.rand(1)")])
    live = run_job(job(plan, tmp_path / "live", own_cache, "mine"))
    kept = [run_job(kept_job(plan, tmp_path / name, own_cache, "mine")) for name in ("a", "b")]
    assert {record.weights_sha256 for record in (live, *kept)} == {live.weights_sha256}
    assert Store(tmp_path / "a").get(live.run_id).status == "ok"


def test_a_method_that_changes_its_teacher_spoils_no_answers_that_others_read(tmp_path, own_cache):
    trouble = "teacher.logits; next(self.ctx.teacher.parameters()).data.add_(1)"
    spoiling = smoke("mine", plugins=[plugin(tmp_path, trouble)])
    assert run_job(kept_job(spoiling, tmp_path / "spoiling", own_cache, "mine")).status == "crashed"
    plan = smoke("kd")
    live = run_job(job(plan, tmp_path / "live", own_cache, "kd"))
    kept = run_job(kept_job(plan, tmp_path / "kept", own_cache, "kd"))
    assert kept.weights_sha256 == live.weights_sha256 and not kept.notes
