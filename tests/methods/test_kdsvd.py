import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer

from kdbench.method import Shapes
from kdbench_methods.relation.kdsvd import KDSVD, bounded_sum, relation_loss, singular_vectors


def stages(widths, seed, sizes=((4, 4), (3, 2), (2, 2))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, width, *size, generator=generator, dtype=torch.float64)
            for width, size in zip(widths, sizes, strict=False)]


def by_hand(student, teacher, vectors):
    """The authors' loss, image by image, with NumPy's decomposition."""
    total = 0.0
    for image in range(len(student[0])):
        ours, theirs = [], []
        for s, t in zip(student, teacher, strict=True):
            matrices = [x[image].reshape(len(x[image]), -1).T for x in (s, t)]  # [HW, C]
            (_, _, rows_s), (_, values, rows_t) = (np.linalg.svd(m, full_matrices=False) for m in matrices)
            scale = values[:vectors] / np.linalg.norm(values[:vectors])
            chosen_s, chosen_t = [], []
            for row, sigma in zip(rows_t, scale, strict=False):
                v = row if row.sum() >= 0 else -row
                best = max(rows_s[:vectors + 3], key=lambda u, v=v: abs(u @ v))
                chosen_s.append(sigma * best * np.sign(best @ v))
                chosen_t.append(sigma * v)
            ours.append(chosen_s)
            theirs.append(chosen_t)
        for i in range(1, len(ours)):
            for n in range(vectors):
                r_s, r_t = (np.exp(-(x[i][n][:, None] - x[i - 1][n][None]) ** 2 / 8) for x in (ours, theirs))
                total += ((r_s - r_t) ** 2).sum()
    return total / len(student[0])


@pytest.mark.parametrize("vectors", [1, 2])
def test_the_loss_equals_the_equation(vectors):
    student, teacher = stages((5, 7, 6), 0), stages((5, 7, 6), 1)
    expected = by_hand([s.numpy() for s in student], [t.numpy() for t in teacher], vectors)
    assert expected > 1e-3
    assert relation_loss(student, teacher, vectors).item() == pytest.approx(expected, rel=1e-10)


def test_singular_vectors_are_those_of_numpy_up_to_signs():
    stage = stages((5,), 0)[0]
    vectors, values = singular_vectors(stage, 3)
    for image in range(3):
        _, expected, rows = np.linalg.svd(stage[image].reshape(5, -1).T.numpy(), full_matrices=False)
        np.testing.assert_allclose(values[image].numpy(), expected[:3])
        np.testing.assert_allclose(np.abs(rows[:3] @ vectors[image].numpy()), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 9, 2, 2)])  # more positions than channels, and fewer
def test_singular_vectors_have_the_gradient_of_finite_differences(shape):
    stage = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    probe = torch.randn(shape[0], shape[1], 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(x):  # does not depend on the signs
        return ((singular_vectors(x, 2)[0] * probe).sum(1) ** 2).sum()

    gradient, = torch.autograd.grad(value(stage), stage)
    step = 1e-6 * torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        difference = value(stage + step) - value(stage - step)
    assert (gradient * step).sum().item() * 2 == pytest.approx(difference.item(), rel=1e-5)


def test_the_signs_of_the_decomposition_and_the_size_of_stages_cost_nothing():
    teacher = stages((5, 7, 6), 1)
    for student in ([-t for t in teacher], [3 * t for t in teacher], [t.flip(2) for t in teacher]):
        assert relation_loss(student, teacher, 1).item() == pytest.approx(0, abs=1e-18)


def test_dead_stages_and_equal_singular_values_give_no_nan():
    dead = [torch.zeros(2, 4, 3, 3, requires_grad=True), torch.eye(4).view(1, 4, 2, 2).repeat(2, 1, 1, 1)]
    dead[1].requires_grad_()
    loss = relation_loss(dead, [torch.randn(2, 4, 3, 3), torch.randn(2, 4, 2, 2)], 1)
    loss.backward()
    assert loss.isfinite() and all(stage.grad.isfinite().all() for stage in dead)


def test_stages_with_fewer_singular_vectors_than_asked_for_relate_those_that_they_have():
    student, teacher = (stages((5, 6), seed, sizes=((3, 3), (1, 1))) for seed in (0, 1))
    assert relation_loss(student, teacher, 3).isfinite()


def test_the_sides_gradient_is_at_most_the_bound_times_the_mains():
    main, small, large = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5]), torch.tensor([60.0, 80.0])
    torch.testing.assert_close(bounded_sum(main, small, 0.5), torch.tensor([3.0, 4.5]))
    torch.testing.assert_close(bounded_sum(main, large, 0.5), torch.tensor([4.5, 6.0]))
    torch.testing.assert_close(bounded_sum(main, torch.zeros(2), 0.5), main)
    assert bounded_sum(main, None, 0.5) is main and bounded_sum(None, small, 0.5) is small


@pytest.mark.parametrize(("step_index", "bound"), [(0, 0.5), (6, 1.0)])
def test_a_step_follows_the_labels_and_the_bounded_relations(step_index, bound):
    training = trainer(KDSVD, alpha=10.0)
    method, batch = training.method, first_batch(training)
    method.step_index = step_index
    names, parameters = zip(*method.named_parameters(), strict=True)
    terms = method.losses(batch, method.student(batch.images), method.teach(batch))
    of_labels, of_relations = (torch.autograd.grad(terms[name], parameters, retain_graph=True, allow_unused=True)
                               for name in ("ce", "relation"))
    training.optimizers["main"].step = lambda: None  # leaves the gradients where they can be seen
    returned = method.step(batch, training.optimizers)
    assert returned["relation"].item() == pytest.approx(terms["relation"].item(), rel=1e-4)
    clipped = 0
    for name, parameter, main, side in zip(names, parameters, of_labels, of_relations, strict=True):
        if main is None or side is None:
            expected = main if side is None else side
        else:
            scale = min(1.0, bound * main.norm().item() / max(side.norm().item(), 1e-12))
            clipped += scale < 1
            expected = main + scale * side
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6, msg=name)
    assert clipped


def test_the_terms_are_alpha_times_the_loss_of_the_adapted_stages_and_ce():
    training = trainer(KDSVD, "cross-architecture", alpha=3.0, vectors=2)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    adapted = [adapter(stage).detach().double().numpy()
               for adapter, stage in zip(method.adapters, student.stages[1:], strict=True)]
    expected = by_hand(adapted, [stage.double().numpy() for stage in teacher.stages], 2)
    assert terms["relation"].item() == pytest.approx(3 * expected, rel=1e-2)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_a_step_moves_the_student_and_its_adapters():
    training = trainer(KDSVD)
    method, before = training.method, snapshot(training.method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)


def test_stages_of_equal_width_have_no_adapter():
    training = trainer(KDSVD)
    shapes = training.method.ctx.student_shapes
    ctx = training.method.ctx.__class__(**{**vars(training.method.ctx), "teacher_shapes": shapes})
    assert not list(KDSVD(ctx).adapters.parameters())
    assert list(training.method.adapters.parameters())


def test_inapplicable_only_where_a_network_has_a_single_stage():
    one, two = Shapes(8, ((8, 4, 4),)), Shapes(8, ((8, 4, 4), (8, 2, 2)))
    assert "single stage" in KDSVD.inapplicable(one, two)
    assert "single stage" in KDSVD.inapplicable(two, one)
    assert KDSVD.inapplicable(two, two) is None
