import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, softmax, trainer

from kdbench_methods.self.cs_kd import CSKD


def test_partners_are_of_the_same_class_and_reach_every_image_of_it():
    method = trainer(CSKD).method
    labels = torch.arange(6).repeat(200)
    partners = method.partners(labels)
    assert torch.equal(method.ctx.train_labels[partners], labels)
    assert set(partners.tolist()) == set(range(method.ctx.num_train))


def test_partners_are_drawn_uniformly():
    method = trainer(CSKD).method
    counts = method.partners(torch.zeros(40_000, dtype=torch.int64)).bincount(minlength=24)
    images_of_class = (method.ctx.train_labels == 0).nonzero().flatten()
    assert len(images_of_class) == 4
    torch.testing.assert_close(counts[images_of_class].double(), torch.full((4,), 10_000.0).double(), rtol=0.05, atol=0)


def test_partners_fit_classes_of_unequal_size(monkeypatch):
    t = trainer(CSKD)
    context = type(t.method.ctx)(**{**vars(t.method.ctx), "train_labels": torch.tensor([2, 0, 2, 2, 5])})
    method = CSKD(context)
    assert method.partners(torch.tensor([0, 5])).tolist() == [1, 4]
    assert set(method.partners(torch.full((100,), 2)).tolist()) == {0, 2, 3}
    monkeypatch.setattr(torch, "rand", lambda n, dtype: torch.full((n,), 1 - 2**-53, dtype=dtype))
    assert method.partners(torch.tensor([2, 0, 5])).tolist() == [3, 1, 4]


def test_cs_kd_follows_its_own_prediction_of_the_partners():
    t = trainer(CSKD, alpha=0.5, temperature=3.0)
    method, batch = t.method, first_batch(t)
    student = method.student(batch.images)
    state = torch.get_rng_state()
    terms = method.losses(batch, student, None)
    torch.set_rng_state(state)  # draw the same partners and augmentations again
    partners = method.ctx.sample(method.partners(batch.labels))
    assert torch.equal(partners.labels, batch.labels)
    p = softmax(method.student(partners.images).logits.detach().double().numpy() / 3)
    q = softmax(student.logits.detach().double().numpy() / 3)
    assert terms["kd"].item() == pytest.approx(0.5 * 9 * kl(p, q).mean(), rel=1e-3)
    assert terms["ce"].item() == F.cross_entropy(student.logits, batch.labels).item()


def test_no_gradient_flows_into_the_prediction_of_the_partners():
    t = trainer(CSKD)
    batch = first_batch(t)
    student = t.method.student(batch.images)
    outputs = student._replace(logits=student.logits.detach().requires_grad_())
    term = t.method.losses(batch, outputs, None)["kd"]
    assert torch.autograd.grad(term, t.method.student.classifier.weight, allow_unused=True)[0] is None
