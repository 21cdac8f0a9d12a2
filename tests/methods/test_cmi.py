import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import kl, moved, named, recorded, snapshot, softmax, trainer

from kdbench_methods.data_free.cmi import CMI, contrastive_loss, described

SMALL = {"batches": 3, "iterations": 2, "head_dim": 8, "latent_dim": 8, "width": 4}


def run(t, *steps):
    """The terms of these steps, as numbers."""
    for t.method.step_index in steps:
        yield {name: term.item() for name, term in t.method.step(None, t.optimizers).items()}


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64))


@pytest.mark.parametrize("new", [3, 7])
def test_contrastive_loss_is_the_papers_in_numpy(new):
    local, whole = unit(7, 4), unit(7, 4).flip(0)
    rows = -np.log(softmax((local @ whole.T).numpy() / 0.2)).diagonal()
    expected = rows[:new].mean() + (rows[new:].mean() if new < 7 else 0)
    assert contrastive_loss(local, whole, new, 0.2).item() == pytest.approx(expected)


def test_images_that_differ_are_told_apart_and_equal_ones_are_not():
    apart = contrastive_loss(torch.eye(5), torch.eye(5), 5, 0.1).item()
    equal = contrastive_loss(torch.eye(5)[:1].repeat(5, 1), torch.eye(5)[:1].repeat(5, 1), 5, 0.1).item()
    assert apart < 0.001 and equal == pytest.approx(np.log(5))


def test_no_gradient_flows_into_the_whole_views():
    local, whole = unit(4, 3).requires_grad_(), unit(4, 3).flip(0).requires_grad_()
    contrastive_loss(local, whole, 2, 0.5).backward()
    assert whole.grad is None and (local.grad != 0).any()


def test_the_terms_of_images_are_the_papers():
    t = trainer(CMI, feature=0.5, one_hot=0.7, adversarial=0.3, contrast=0.6, contrast_temperature=0.4, jitter=0,
                negatives=9, **SMALL)
    method = t.method
    torch.manual_seed(0)
    images, classes, memory = torch.randn(8, 3, 32, 32), torch.arange(8) % 6, torch.randn(9, 2, 72)
    method.part = lambda images: images.flip(3)  # any other view
    method.student.eval()
    terms, views = method.image_terms(images, classes, memory)

    teacher, other = method.ctx.teacher(images), method.ctx.teacher(images.flip(3))
    means = [np.concatenate([stage.double().numpy().mean((2, 3)) for stage in outputs.stages], axis=1)
             for outputs in (other, teacher)]
    np.testing.assert_allclose(views.numpy(), np.stack(means, axis=1), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        every = F.normalize(method.head(torch.cat([views, memory])), dim=2).double().numpy()
    rows = -np.log(softmax(every[:, 0] @ every[:, 1].T / 0.4)).diagonal()
    p, q = (softmax(x.logits.detach().double().numpy()) for x in (teacher, method.student(images)))
    feature, inputs = 0.0, []
    hooks = [layer.register_forward_pre_hook(lambda layer, given: inputs.append((layer, given[0].double().numpy())))
             for layer in method.layers]
    method.ctx.teacher(images)
    for hook in hooks:
        hook.remove()
    for layer, x in inputs:
        feature += np.sqrt(((x.mean((0, 2, 3)) - layer.running_mean.numpy()) ** 2).sum())
        feature += np.sqrt(((x.var((0, 2, 3)) - layer.running_var.numpy()) ** 2).sum())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "one_hot": -0.7 * np.log(p[range(8), classes]).mean(), "feature": 0.5 * feature,
        "contrast": 0.6 * (rows[:8].mean() + rows[8:].mean()),
        "adversarial": -0.3 * (kl(p, q) * (p.argmax(1) == q.argmax(1))).mean(),
    }, rel=1e-3)


def test_batches_are_made_evenly_over_the_run_and_never_again():
    t = trainer(CMI, **SMALL)
    assert [t.method.made(step) for step in range(-1, 12)] == [0, *[1] * 4, *[2] * 4, *[3] * 4]
    assert t.method.rare_steps() == [0, 4, 8]
    list(run(t, 0))
    bank, memory = t.method.bank.clone(), t.method.memory.clone()
    assert bank[0].any() and memory[0].any() and not bank[1:].any() and not memory[1:].any()
    list(run(t, 1, 2, 3))
    assert torch.equal(t.method.bank, bank) and torch.equal(t.method.memory, memory)
    list(run(t, 4))
    assert torch.equal(t.method.bank[0], bank[0]) and t.method.bank[1].any() and t.method.memory[1].any()


def test_each_batch_is_told_from_all_made_before_and_the_least_loss_is_kept():
    t = trainer(CMI, **{**SMALL, "iterations": 3}, jitter=0)
    method, seen = t.method, []
    terms = method.image_terms

    def noted(images, classes, memory):
        found, views = terms(images, classes, memory)
        seen.append((images.detach().clone(), memory.clone(), views))
        return {name: term * (5, 1, 3)[len(seen) - 1] for name, term in found.items()}, views  # the second is the least

    method.image_terms = noted
    for number in range(2):
        seen.clear()
        method.synthesise(number, t.optimizers["head"])
        assert torch.equal(method.bank[number], seen[1][0]) and torch.equal(method.memory[number], seen[1][2])
        assert all(torch.equal(memory, method.memory[:number].flatten(0, 1)) for _, memory, _ in seen)


def test_a_part_is_a_window_of_half_to_all_of_the_sides_at_the_images_size():
    method = trainer(CMI, **SMALL).method
    torch.manual_seed(0)
    ramp = torch.arange(32.0).expand(2, 3, 32, 32)
    spans = []
    for _ in range(200):
        part = method.part(ramp)
        assert part.shape == ramp.shape and part.min() >= 0 and part.max() <= 31
        spans.append((part.max() - part.min() + 1).item())
    assert min(spans) in (16, 17) and max(spans) in (31, 32)


def test_making_images_trains_the_head_and_leaves_the_student_as_it_is():
    t = trainer(CMI, **SMALL)
    before, state = snapshot(t.method), {k: v.clone() for k, v in t.method.student.state_dict().items()}
    t.method.synthesise(0, t.optimizers["head"])
    assert moved(t.method, before) == named(t.method, "head.")
    assert all(torch.equal(value, state[name]) for name, value in t.method.student.state_dict().items())
    assert t.method.student.training and all(p.grad is None for p in t.method.student.parameters())


def test_the_student_learns_the_teachers_softened_answers_alone():
    t = trainer(CMI, **SMALL, temperature=2.0)
    list(run(t, 0))
    before = snapshot(t.method)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms, = run(t, 1)  # which makes no images
    (images, student), (asked, teacher) = by_student[0], by_teacher[0]
    assert torch.equal(images, asked) and len(by_student) == len(by_teacher) == 1
    expected = kl(*(softmax(x.logits.detach().double().numpy() / 2) for x in (teacher, student))).mean()
    assert terms == {"kd": pytest.approx(4 * expected, rel=1e-4)}
    assert moved(t.method, before) == named(t.method, "student.")


def test_a_teacher_without_batchnorm_is_inverted_by_the_other_terms():
    t = trainer(CMI, "vit", **SMALL)
    assert t.method.layers == []
    terms, = run(t, 0)
    assert set(terms) == {"one_hot", "contrast", "adversarial", "kd"}
    outputs = t.method.ctx.teacher(torch.zeros(2, 3, 32, 32))
    assert described(outputs).shape == (2, sum(stage.shape[1] for stage in outputs.stages))
