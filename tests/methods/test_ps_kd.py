import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, trainer

from kdbench_methods.self.ps_kd import PSKD


def test_the_memory_starts_as_the_labels_so_that_the_first_epoch_is_ce():
    t = trainer(PSKD)
    method, batch = t.method, first_batch(t)
    assert torch.equal(method.memory.argmax(dim=1), method.ctx.train_labels)
    assert torch.equal(method.memory.sum(dim=1), torch.ones(method.ctx.num_train))
    student = method.student(batch.images)
    terms = method.losses(batch, student, None)
    assert sum(terms.values()).item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_the_memory_takes_the_predictions_of_the_batchs_images_alone():
    t = trainer(PSKD)
    method, batch = t.method, first_batch(t)
    before = method.memory.clone()
    student = method.student(batch.images)
    method.losses(batch, student, None)
    torch.testing.assert_close(method.memory[batch.positions], F.softmax(student.logits, dim=1).detach())
    others = torch.ones(method.ctx.num_train, dtype=torch.bool).index_fill_(0, batch.positions, False)
    assert torch.equal(method.memory[others], before[others])
    assert not method.memory.requires_grad


def test_targets_mix_the_labels_with_what_was_remembered_before_this_step():
    t = trainer(PSKD, alpha=0.6)
    method, batch = t.method, first_batch(t)
    method.step_index = 6  # of four epochs of three steps: the third begins
    past = F.softmax(torch.randn(method.memory.shape), dim=1)
    method.memory.copy_(past)
    student = method.student(batch.images)
    log_p = F.log_softmax(student.logits, dim=1).detach()
    terms = method.losses(batch, student, None)
    assert terms["ce"].item() == pytest.approx(-0.55 * log_p.gather(1, batch.labels[:, None]).mean().item())
    assert terms["past"].item() == pytest.approx(-0.45 * (past[batch.positions] * log_p).sum(dim=1).mean().item())


def test_the_weight_of_the_memory_grows_by_equal_steps_once_an_epoch_to_alpha():
    t = trainer(PSKD, alpha=0.8)
    epochs, steps = t.method.ctx.epochs, t.method.ctx.steps_per_epoch
    weights = []
    for t.method.step_index in range(epochs * steps):
        weights.append(t.method.weight())
    assert weights == pytest.approx([0.8 * (step // steps + 1) / epochs for step in range(epochs * steps)])
    assert weights[-1] == pytest.approx(0.8)


def test_the_epoch_is_exact_for_any_number_of_steps():
    method = trainer(PSKD, alpha=1.0).method
    for epochs, steps in ((240, 781), (7, 3), (49, 49)):
        object.__setattr__(method.ctx, "epochs", epochs)
        object.__setattr__(method.ctx, "steps_per_epoch", steps)
        for epoch in range(epochs):
            for method.step_index in (epoch * steps, (epoch + 1) * steps - 1):
                assert method.weight() == (epoch + 1) / epochs
