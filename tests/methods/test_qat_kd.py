import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, loss_terms, random_logits, trainer
from torch import nn

from kdbench_methods.logit.kd import KD
from kdbench_methods.logit.qat_kd import DECAY, QATKD, round_activation, round_weight

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def at_step(step: int, pair="convolutional", **hyperparameters):
    """The method about to take that step of the run's 12, and a batch."""
    found = trainer(QATKD, pair, **hyperparameters)
    found.method.step_index = step
    return found.method.train(), first_batch(found)


def test_the_terms_are_those_of_kd():
    for settings in ({}, {"temperature": 3.0, "alpha": .2}):
        assert loss_terms(QATKD, STUDENT, LABELS, TEACHER, **settings) == loss_terms(
            KD, STUDENT, LABELS, TEACHER, **settings)


def test_weights_are_rounded_to_127_steps_of_each_output_channel_and_zero_stays_zero():
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weight[0, 0], weight[3] = 0, 0
    scale = weight.abs().flatten(1).amax(1).clamp(min=1e-12).numpy()[:, None, None, None] / 127
    np.testing.assert_allclose(round_weight(weight), np.round(weight.numpy() / scale) * scale, atol=1e-7)
    assert not round_weight(weight)[3].any() and not round_weight(weight)[0, 0].any()


def test_rounding_of_weights_is_the_same_before_and_after_a_batchnorm_is_folded_in():
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    folded = torch.tensor([.5, -2, 3, .1])[:, None]
    torch.testing.assert_close(round_weight(weight * folded), round_weight(weight) * folded)


def test_activations_are_rounded_to_256_steps_between_the_extremes_and_clipped_beyond():
    values = torch.tensor([-9., -1., 0., .3, 2., 9.])
    rounded = round_activation(values, torch.tensor(-1.), torch.tensor(2.))
    scale = 3 / 255
    assert rounded[2] == 0
    assert rounded[0] == rounded[1] and rounded[4] == rounded[5]
    assert torch.allclose(rounded[1:5], values[1:5], atol=scale / 2 + 1e-6)
    assert torch.allclose(rounded / scale, (rounded / scale).round(), atol=1e-3)


def test_gradients_pass_straight_through_what_is_rounded_and_stop_at_what_is_clipped():
    weight = torch.randn(2, 5, requires_grad=True)
    round_weight(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 5))
    values = torch.tensor([-9., .3, 9.], requires_grad=True)
    round_activation(values, torch.tensor(-1.), torch.tensor(2.)).sum().backward()
    assert values.grad.tolist() == [0, 1, 0]


def test_before_its_share_of_the_run_the_student_is_the_float_one_and_then_it_is_rounded():
    method, batch = at_step(0, start=.25)
    method.eval()
    exact = method.student(batch.images).logits
    assert torch.equal(method.study(batch).logits, exact) and not method.seen.any()
    method.step_index = 3
    rounded = method.study(batch).logits
    assert not torch.equal(rounded, exact) and torch.allclose(rounded, exact, atol=.2 * float(exact.detach().std()))
    assert torch.equal(method.student(batch.images).logits, exact)  # what is scored stays the float one


@pytest.mark.parametrize("pair", ["convolutional", "vit"])
def test_every_convolution_and_linear_layer_computes_with_rounded_weights_and_inputs(pair):
    method, batch = at_step(3, pair, start=0.0)
    layers = {name: one for name, one in method.student.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)}
    seen = {}
    hooks = [layer.register_forward_hook(lambda layer, inputs, _, name=name: seen.update(
        {name: (layer.weight.detach().clone(), inputs[0].detach())})) for name, layer in layers.items()]
    method.study(batch)
    for hook in hooks:
        hook.remove()
    assert seen.keys() == layers.keys()
    for name, (weight, inputs) in seen.items():
        assert torch.equal(weight, round_weight(layers[name].weight)), name
        assert len(inputs.unique()) <= 256, name


def test_extremes_are_moving_averages_over_steps_that_include_zero_and_are_saved_with_the_method():
    method, batch = at_step(3, start=0.0)
    method.study(batch)
    first = method.extremes.clone()
    low, high = batch.images.aminmax()
    assert first[0].tolist() == pytest.approx([min(float(low), 0), max(float(high), 0)])
    assert (first[:, 0] <= 0).all() and (first[:, 1] >= 0).all() and method.seen.all()
    method.study(batch._replace(images=2 * batch.images))
    assert method.extremes[0].tolist() == pytest.approx(((DECAY + 2 * (1 - DECAY)) * first[0]).tolist())
    assert {"extremes", "seen"} <= set(method.state_dict())


def test_a_step_moves_the_float_weights_by_the_gradient_at_the_rounded_ones():
    method, batch = at_step(3, start=0.0)
    outputs = method.study(batch)
    F.cross_entropy(outputs.logits, batch.labels).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all()
               for parameter in method.student.parameters())


def test_the_deployed_network_is_the_students_own_with_no_rounding_left_on_it():
    method, batch = at_step(3, start=0.0)
    before = [len(module._forward_pre_hooks) for module in method.student.modules()]
    method.study(batch)
    assert method.deployed() is method.student
    assert [len(module._forward_pre_hooks) for module in method.student.modules()] == before
