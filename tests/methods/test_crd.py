import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer

from kdbench_methods.relation.crd import CRD, contrastive_loss

DRAWN = 20


@pytest.fixture
def training():
    return trainer(CRD, "cross-architecture", negatives=DRAWN, temperature=0.5, momentum=0.3, alpha=2.0, width=12)


def unit(rows):
    return rows / np.sqrt((rows**2).sum(1, keepdims=True))


def numbers(tensor):
    return tensor.detach().double().numpy()


def embeddings(method, batch):
    """Both networks' embeddings of the batch, in the common space."""
    student, teacher = method.student(batch.images), method.teach(batch)
    return {"student": unit(numbers(method.embed_student(student.embedding))),
            "teacher": unit(numbers(method.embed_teacher(teacher.embedding)))}


def peek(method):
    """What the next step will draw."""
    state = torch.get_rng_state()
    drawn = torch.randperm(method.ctx.num_train)[:DRAWN]
    torch.set_rng_state(state)
    return drawn.numpy()


def loss_by_hand(own, others, num_train):
    """Tian et al.: -log h of the own image - sum of log(1 - h) of the others, given all P."""
    ratio = len(others) / num_train
    return -np.log(own / (own + ratio)) - sum(np.log(1 - p / (p + ratio)) for p in others)


def test_the_loss_equals_the_equation():
    own, others = torch.rand(5, dtype=torch.float64) * 3, torch.rand(5, 8, dtype=torch.float64) * 3
    usable = torch.rand(5, 8, dtype=torch.float64).round()
    expected = np.mean([loss_by_hand(own[i].item(), others[i][usable[i] > 0].numpy(), 40) for i in range(5)])
    assert contrastive_loss(own.log(), others.log(), usable, 40).item() == pytest.approx(expected, rel=1e-12)


def test_a_step_contrasts_each_side_with_the_others_memory(training):
    method, batch = training.method, first_batch(training)
    embedded, drawn = embeddings(method, batch), peek(method)
    ce = F.cross_entropy(method.student(batch.images).logits, batch.labels).item()
    memories = {side: numbers(getattr(method, f"{side}_memory")).copy() for side in ("teacher", "student")}
    terms = method.step(batch, training.optimizers)
    labels = method.ctx.train_labels.numpy()
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-5)
    for side, other in (("student", "teacher"), ("teacher", "student")):
        scores = np.exp(embedded[side] @ memories[other].T / 0.5)
        partition = scores[:, drawn].mean() * len(labels)
        probabilities = scores / partition
        losses = [loss_by_hand(row[index], row[drawn[labels[drawn] != labels[index]]], len(labels))
                  for row, index in zip(probabilities, batch.positions.tolist(), strict=True)]
        assert terms[side].item() == pytest.approx(2 * np.mean(losses), rel=1e-4)
        assert getattr(method, f"{side}_scale").item() == pytest.approx(np.log(partition), rel=1e-4)


def test_the_scale_is_set_by_the_runs_first_batch_alone(training):
    method, partitions = training.method, []
    for method.step_index, batch in enumerate(training.stream.epoch(0)):
        method.step(batch, training.optimizers)
        partitions.append((method.student_scale.item(), method.teacher_scale.item()))
    assert len(set(partitions)) == 1
    assert 0 not in partitions[0]


def test_each_memory_keeps_its_own_sides_embeddings_under_the_samples_index(training):
    method, batch = training.method, first_batch(training)
    embedded = embeddings(method, batch)
    before = {side: numbers(getattr(method, f"{side}_memory")).copy() for side in embedded}
    method.step(batch, training.optimizers)
    seen = batch.positions.tolist()
    for side, old in before.items():
        memory = numbers(getattr(method, f"{side}_memory"))
        np.testing.assert_allclose(memory[seen], unit(0.3 * old[seen] + 0.7 * embedded[side]), atol=1e-5)
        unseen = np.setdiff1d(np.arange(len(old)), seen)
        np.testing.assert_array_equal(memory[unseen], old[unseen])


def test_an_image_without_negatives_gives_a_finite_loss():
    own, others = torch.randn(3, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    loss = contrastive_loss(own, others, torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4]), 40)
    loss.backward()
    assert loss.isfinite()
    assert own.grad.isfinite().all()
    assert others.grad.isfinite().all()


def test_fresh_memories_lie_around_the_origin_at_about_unit_length():
    method = trainer(CRD, width=256).method
    for memory in (method.student_memory, method.teacher_memory):
        assert memory.square().sum(1).mean().item() == pytest.approx(1, abs=0.05)
        assert memory.mean().item() == pytest.approx(0, abs=0.01)


def test_a_step_trains_every_part(training):
    method = training.method
    before = snapshot(method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)


def test_the_teachers_term_trains_the_teachers_map_alone(training):
    method, batch = training.method, first_batch(training)
    theirs = F.normalize(method.embed_teacher(method.teach(batch).embedding), dim=1)
    method.contrast(theirs, method.student_memory, batch, torch.arange(DRAWN), method.teacher_scale).backward()
    assert {name for name, p in method.named_parameters() if p.grad is not None} == \
        {"embed_teacher.weight", "embed_teacher.bias"}
