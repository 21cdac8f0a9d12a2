import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer
from torch import nn

from kdbench_methods.feature.mgd import MGD, draw_mask


@pytest.mark.parametrize("kind, shape", [("channels", (6, 200, 1, 1)), ("positions", (6, 1, 20, 10))])
def test_a_mask_hides_its_share_of_channels_or_positions_for_each_image_anew(kind, shape):
    mask = draw_mask(torch.zeros(6, 200, 20, 10), 0.15, kind)
    assert mask.shape == shape
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.85, abs=0.03)
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("masked, value", [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_or_all_can_be_masked(masked, value):
    assert (draw_mask(torch.zeros(2, 3, 4, 4), masked, "positions") == value).all()


@pytest.mark.parametrize("kind", ["channels", "positions"])
@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture"])
def test_the_term_is_alpha_times_the_squared_distance_of_what_is_generated_from_the_masked_stage(pair, kind):
    training = trainer(MGD, pair, alpha=0.5, masked=0.4, mask=kind)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    size = [min(a, b) for a, b in zip(student.stages[-1].shape[2:], teacher.stages[-1].shape[2:], strict=True)]
    guided, target = (F.adaptive_avg_pool2d(outputs.stages[-1], size) for outputs in (student, teacher))
    aligned = np.einsum("bchw,dc->bdhw", guided.detach().double().numpy(),
                        method.align.weight.detach().double().numpy()[:, :, 0, 0])
    aligned += method.align.bias.detach().double().numpy()[None, :, None, None]
    torch.manual_seed(5)
    terms = method.losses(batch, student, teacher)
    torch.manual_seed(5)
    visible = (torch.rand((len(aligned), aligned.shape[1], 1, 1) if kind == "channels" else
                          (len(aligned), 1, *size)) >= 0.4).double().numpy()
    assert 0 < visible.mean() < 1
    with torch.no_grad():
        generated = method.generator.double()(torch.from_numpy(aligned * visible)).numpy()
    expected = 0.5 * ((generated - target.double().numpy()) ** 2).mean()
    assert terms["mgd"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_stages_of_one_width_need_no_alignment():
    assert isinstance(trainer(MGD).method.align, nn.Conv2d)
    method = trainer(MGD).method
    equal = method.ctx.student_shapes._replace(stages=method.ctx.teacher_shapes.stages)
    context = type(method.ctx)(**{**vars(method.ctx), "student_shapes": equal})
    assert isinstance(MGD(context).align, nn.Identity)


def test_a_hidden_channel_gets_no_gradient():
    stage = torch.randn(2, 8, 3, 3, requires_grad=True)
    mask = draw_mask(stage, 0.5, "channels")
    F.mse_loss(stage * mask, torch.ones_like(stage)).backward()
    assert torch.equal(stage.grad.abs().sum((2, 3)) > 0, mask[:, :, 0, 0] > 0)


def test_a_step_moves_student_and_generator():
    training = trainer(MGD, "cross-architecture")
    method, before = training.method, snapshot(training.method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
