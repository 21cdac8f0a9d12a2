import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, moved, snapshot, trainer

from kdbench_methods.feature.ft import FactorTransfer, factor_loss


def by_hand(student, teacher):
    """The paper's factor loss with p = 1, averaged over elements as in the authors' code."""
    units = [np.stack([image / np.sqrt((image**2).sum()) for image in x]) for x in (student, teacher)]
    return np.abs(units[0] - units[1]).mean()


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones_of_factors_with_one_channel(file):
    """RepDistiller's variant compares squared-mean maps: factors of one channel."""
    golden = Golden(file)
    teacher = golden["teacher_stage2"].pow(2).mean(1, keepdim=True)
    golden.check("ft_factor", lambda student: factor_loss(student.pow(2).mean(1, keepdim=True), teacher))


def test_loss_equals_the_equation():
    student, teacher = torch.randn(2, 4, 3, 5, 2, dtype=torch.float64)
    assert factor_loss(student, teacher).item() == pytest.approx(by_hand(student.numpy(), teacher.numpy()), rel=1e-12)
    assert factor_loss(3 * teacher, teacher).item() == pytest.approx(0, abs=1e-15)


def test_the_first_stage_trains_the_paraphraser_alone():
    training = trainer(FactorTransfer)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    statistics = {name: value.clone() for name, value in method.student.named_buffers()}
    stage = method.teach(batch).stages[-1]
    expected = (method.decoder(method.encoder(stage)) - stage).abs().mean().item()
    terms = method.step(batch, training.optimizers)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"reconstruction": expected})
    assert moved(method, before) == {name for name in before if name.startswith(("encoder.", "decoder."))}
    assert all(torch.equal(value, statistics[name]) for name, value in method.student.named_buffers())


def test_the_paraphraser_learns_in_a_few_hundred_steps_what_a_constant_would_not_tell():
    training = trainer(FactorTransfer)
    method, batch = training.method, first_batch(training)
    stage = method.teach(batch).stages[-1]
    constant = (stage - stage.mean((0, 2, 3), keepdim=True)).abs().mean().item()
    for _ in range(200):
        terms = method.step(batch, training.optimizers)
    assert terms["reconstruction"].item() < constant / 2


def test_the_second_stage_trains_student_and_translator_and_leaves_the_paraphraser():
    training = trainer(FactorTransfer, paraphraser_share=0.25)
    method, batch = training.method, first_batch(training)
    method.step_index = 2
    method.step(batch, training.optimizers)  # momentum must not move the paraphraser later
    method.step_index, before = 3, snapshot(method)
    assert set(method.step(batch, training.optimizers)) == {"ce", "factor"}
    assert moved(method, before) == {name for name in before if name.startswith(("student.", "translator."))}


def test_the_term_compares_the_translators_factor_with_the_encoders():
    training = trainer(FactorTransfer, "cross-architecture", alpha=7.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    with torch.no_grad():
        size = student.stages[-1].shape[2:]
        factors = [method.translator(student.stages[-1]),
                   F.adaptive_avg_pool2d(method.encoder(teacher.stages[-1]), size)]
    terms = method.losses(batch, student, teacher)
    assert terms["factor"].item() == pytest.approx(7 * by_hand(*(f.double().numpy() for f in factors)), rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_rate_sets_the_channels_of_the_factor():
    for rate, channels in ((0.25, 8), (0.5, 16), (2.0, 64)):
        method = trainer(FactorTransfer, rate=rate).method
        stage = torch.randn(2, 32, 4, 4)
        assert method.encoder(stage).shape == (2, channels, 4, 4)
        assert method.decoder(method.encoder(stage)).shape == stage.shape
        assert method.translator(torch.randn(2, 16, 4, 4)).shape == (2, channels, 4, 4)
