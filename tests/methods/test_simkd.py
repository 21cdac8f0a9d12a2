import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer
from torch import nn

from kdbench_methods.feature.simkd import Reused, SimKD


def test_the_loss_is_the_squared_distance_to_the_last_stage_that_the_classifier_reads():
    training = trainer(SimKD, alpha=3.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    projected = method.projector(student.stages[-1]).detach().double().numpy()
    expected = 3 * ((projected - teacher.stages[-1].double().numpy()) ** 2).mean()
    terms = method.losses(batch, student, teacher)
    assert terms.keys() == {"feature"}
    assert terms["feature"].item() == pytest.approx(expected, rel=1e-4)


def test_maps_meet_at_the_smaller_resolution():
    training = trainer(SimKD, "cross-architecture")
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    assert student.stages[-1].shape[2] < teacher.stages[-1].shape[2]
    target = F.adaptive_avg_pool2d(teacher.stages[-1], student.stages[-1].shape[2:])
    expected = F.mse_loss(method.projector(student.stages[-1]), target)
    torch.testing.assert_close(method.losses(batch, student, teacher)["feature"], expected)


def test_a_teacher_that_reads_something_else_is_matched_there():
    training = trainer(SimKD, "vit")
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    pooled = student.stages[-1].mean((2, 3), keepdim=True)
    expected = F.mse_loss(method.projector(pooled)[:, :, 0, 0], teacher.embedding)
    torch.testing.assert_close(method.losses(batch, student, teacher)["feature"], expected)
    assert (teacher.embedding < 0).any() and (method.projector(pooled) < 0).any()
    assert method.deployed().eval()(batch.images).logits.shape == teacher.logits.shape


def test_the_projector_narrows_by_its_factor():
    assert [trainer(SimKD, factor=f).method.projector[0].out_channels for f in (1, 2, 4)] == [32, 16, 8]


def test_training_moves_the_projector_and_the_student_but_for_its_classifier():
    training = trainer(SimKD)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step(batch, training.optimizers)
    assert moved(method, before) == {name for name in before if ".fc." not in name}


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture", "vit"])
def test_the_deployed_network_is_student_projector_and_the_teachers_classifier(pair):
    training = trainer(SimKD, pair)
    method, batch = training.method, first_batch(training)
    deployed, classifier = method.deployed().eval(), method.ctx.teacher.classifier
    with torch.no_grad():
        stage = F.adaptive_avg_pool2d(method.student(batch.images).stages[-1], method.size)
        logits = classifier(method.projector(stage).mean((2, 3)))
        torch.testing.assert_close(deployed(batch.images).logits, logits)
    state = deployed.state_dict()
    assert torch.equal(state["classifier.weight"], classifier.weight)
    assert deployed.classifier.weight is not classifier.weight
    assert {name.split(".")[0] for name in state} == {"student", "projector", "classifier"}


def test_a_perfect_student_answers_like_the_teacher():
    training = trainer(SimKD)
    teacher, batch = training.method.ctx.teacher, first_batch(training)
    size = training.method.ctx.teacher_shapes.stages[-1][1:]
    with torch.no_grad():
        reused = Reused(teacher, nn.Identity(), teacher.classifier, size)(batch.images)
        torch.testing.assert_close(reused.logits, teacher(batch.images).logits)
