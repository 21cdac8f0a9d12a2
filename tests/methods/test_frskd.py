import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, moved, snapshot, softmax, trainer

from kdbench.checks.contract import PAIRS
from kdbench.method import Shapes
from kdbench_methods.self.frskd import FRSKD, Fusion, SelfTeacher, resample


def attention(stage):
    energy = (stage**2).mean(axis=1).reshape(len(stage), -1)
    return energy / np.sqrt((energy**2).sum(axis=1, keepdims=True))


def test_frskd_is_the_papers_sum():
    t = trainer(FRSKD, alpha=0.5, beta=20.0, temperature=3.0)
    method = t.method.double().eval()  # BatchNorm as is, so that the pyramid can be asked twice
    batch = first_batch(t)
    student = method.student(batch.images.double())
    terms = {name: term.item() for name, term in method.losses(batch, student, None).items()}

    refined, logits = (method.pyramid(student.stages))
    rows, labels = range(len(batch.labels)), batch.labels.numpy()
    own, better = student.logits.detach().numpy(), logits.detach().numpy()
    distance = sum(((attention(s.detach().numpy()) - attention(r.detach().numpy())) ** 2).mean()
                   for s, r in zip(student.stages, refined, strict=True))
    assert terms == pytest.approx({
        "ce": -np.log(softmax(own)[rows, labels]).mean(), "pyramid": -np.log(softmax(better)[rows, labels]).mean(),
        "kd": 0.5 * 9 * kl(softmax(better / 3), softmax(own / 3)).mean(), "attention": 20 * distance,
    })


@pytest.mark.parametrize("pair", PAIRS)
def test_every_stage_is_refined_at_its_resolution_and_twice_its_width(pair):
    t = trainer(FRSKD, pair)
    student = t.method.student(first_batch(t).images)
    refined, logits = t.method.pyramid(student.stages)
    assert [tuple(r.shape[1:]) for r in refined] == [
        (2 * c, h, w) for c, h, w in t.method.ctx.student_shapes.stages]
    assert logits.shape == student.logits.shape


def test_refined_maps_depend_on_deeper_and_on_shallower_stages():
    torch.manual_seed(0)
    shapes = [(3, 8, 8), (4, 4, 4), (5, 2, 2)]
    pyramid = SelfTeacher(shapes, 6, width=2).double().eval()
    stages = [torch.rand(2, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    refined, logits = pyramid(stages)
    for output in (*refined, logits):
        gradients = torch.autograd.grad(output.square().sum(), stages, retain_graph=True)
        assert all((gradient != 0).any() for gradient in gradients)


def test_fusion_is_a_weighted_mean_with_weights_that_are_not_negative():
    fusion = Fusion(3, 2)
    fusion.layers = torch.nn.Identity()
    fusion.weights.data = torch.tensor([3.0, -5.0, 1.0])
    a, b, c = torch.rand(3, 1, 2, 4, 4)
    torch.testing.assert_close(fusion(a, b, c), 0.75 * a + 0.25 * c, rtol=1e-5, atol=1e-6)


def test_stages_are_pooled_to_a_smaller_resolution_and_repeated_to_a_larger_one():
    stage = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert resample(stage, (1, 1)).tolist() == [[[[3.0]]]]
    assert torch.equal(resample(stage, (2, 2)), stage)
    assert resample(stage, (4, 4))[0, 0].tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 6, 6]] * 2


def test_what_is_distilled_reaches_the_student_and_not_the_pyramid():
    t = trainer(FRSKD)
    method, batch = t.method, first_batch(t)
    terms = method.losses(batch, method.student(batch.images), None)
    pyramid, stem = list(method.pyramid.parameters()), method.student.model.conv1.weight
    for name, term in terms.items():
        to_pyramid = torch.autograd.grad(term, pyramid, retain_graph=True, allow_unused=True)
        assert any(gradient is not None for gradient in to_pyramid) == (name == "pyramid"), name
        assert (torch.autograd.grad(term, stem, retain_graph=True)[0] != 0).any(), name
    to_classifier = torch.autograd.grad(terms["pyramid"], method.student.classifier.weight, allow_unused=True)
    assert to_classifier == (None,)


def test_a_step_trains_the_whole_pyramid_which_is_left_behind():
    t = trainer(FRSKD)
    before = snapshot(t.method)
    t.method.step(first_batch(t), t.optimizers)
    assert moved(t.method, before) == set(before)
    assert t.method.deployed() is t.method.student


def test_a_student_of_one_stage_is_refused():
    assert "one stage" in FRSKD.inapplicable(Shapes(8, ((4, 2, 2),)), None)
    assert FRSKD.inapplicable(Shapes(8, ((4, 4, 4), (4, 2, 2))), None) is None
