import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, moved, snapshot, trainer

from kdbench_methods.feature.reviewkd import Fusion, ReviewKD, hierarchical_context_loss


def by_hand(student, teacher):
    """The authors' hierarchical context loss: squared distances of ever coarser means, weights 1, 1/2, 1/4, 1/8."""
    height = student.shape[2]
    sizes = [height] + [size for size in (4, 2, 1) if size < height]
    total = 0.0
    for level, size in enumerate(sizes):
        step = height // size
        s, t = (x.reshape(*x.shape[:2], size, step, size, step).mean((3, 5)) for x in (student, teacher))
        total += ((s - t) ** 2).mean() / 2**level
    return total / sum(2.0**-level for level in range(len(sizes)))


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    teacher = golden.stages("teacher")
    golden.check("reviewkd_hcl", lambda *student: sum(
        hierarchical_context_loss(s, t) for s, t in zip(student, teacher, strict=True)))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_loss_equals_the_equation(size):
    student, teacher = torch.randn(2, 4, 3, size, size, dtype=torch.float64)
    expected = by_hand(student.numpy(), teacher.numpy())
    assert hierarchical_context_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_fusion_weighs_the_stage_against_the_enlarged_deeper_one_and_takes_the_teachers_size():
    fusion = Fusion(4, 6, 5, (8, 8), deepest=False).eval()
    stage, deeper = torch.randn(2, 4, 4, 4), torch.randn(2, 6, 2, 2)
    with torch.no_grad():
        regressed, fused = fusion(stage, deeper)
        entered = fusion.enter(stage).double().numpy()
        enlarged = deeper.double().numpy().repeat(2, axis=2).repeat(2, axis=3)
        convolution = fusion.attention[0]
        scores = np.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0].double().numpy(),
                           np.concatenate([entered, enlarged], axis=1))
        scores += convolution.bias.double().numpy()[None, :, None, None]
        weights = 1 / (1 + np.exp(-scores))
        expected = (entered * weights[:, :1] + enlarged * weights[:, 1:]).repeat(2, axis=2).repeat(2, axis=3)
        np.testing.assert_allclose(fused.numpy(), expected, atol=1e-5)
        torch.testing.assert_close(regressed, fusion.leave(fused))
    assert regressed.shape == (2, 5, 8, 8)


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture", "vit"])
def test_the_shallowest_review_teaches_every_level(pair):
    training = trainer(ReviewKD, pair)
    method, batch = training.method, first_batch(training)
    student, fused = method.student(batch.images), None
    stages = student.stages[-(len(method.fusions) - 1):]
    for level, fusion in zip([student.embedding[:, :, None, None], *reversed(stages)], reversed(method.fusions),
                             strict=True):
        review, fused = fusion(level, fused)
    teacher = method.teach(batch).stages
    assert review.shape == teacher[-len(stages)].shape
    gradients = torch.autograd.grad(review.pow(2).sum(), [student.embedding, *stages])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_term_is_the_sum_over_levels_embedding_included_and_warms_up():
    training = trainer(ReviewKD, alpha=5.0, warmup=1 / 3)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    assert all((stage < 0).any() for stage in teacher.stages), "the teacher's stages are taken before their rectifier"
    deep, fused = method.fusions[3](student.embedding[:, :, None, None], None)
    expected = F.mse_loss(deep[:, :, 0, 0], teacher.embedding).item()
    for i in (2, 1, 0):
        review, fused = method.fusions[i](student.stages[i], fused)
        expected += by_hand(review.detach().double().numpy(), teacher.stages[i].double().numpy())
    for method.step_index, share in ((0, 0.0), (1, 0.25), (4, 1.0), (11, 1.0)):
        terms = method.losses(batch, student, teacher)
        assert terms["review"].item() == pytest.approx(5 * share * expected, rel=1e-4)
        assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_a_step_moves_student_and_fusions():
    training = trainer(ReviewKD)
    method, batch = training.method, first_batch(training)
    method.step_index, before = 6, snapshot(method)
    method.step(batch, training.optimizers)
    assert moved(method, before) == set(before)


@pytest.mark.parametrize("preactivation", [False, True])
def test_the_students_stages_are_taken_before_their_rectifier_if_asked(preactivation):
    training = trainer(ReviewKD, preactivation=preactivation)
    method, batch = training.method, first_batch(training)
    stages = method.study(batch).stages
    assert [bool((stage < 0).any()) for stage in stages] == [preactivation] * len(stages)
    for stage, plain in zip(stages, method.student(batch.images).stages, strict=True):
        torch.testing.assert_close(stage.relu(), plain)
