"""The base class of methods: what it does for those that override no more than `losses`."""

import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, trainer

from kdbench.method import Method, descend


class Plain(Method):
    """Trains on the labels and notes where in the run each step lies."""

    name, family = "plain", "baseline"
    learns_from = None

    def __init__(self, ctx):
        super().__init__(ctx)
        self.seen = []

    def losses(self, batch, student, teacher):
        self.seen.append((self.step_index, self.progress))
        return {"ce": F.cross_entropy(student.logits, batch.labels)}


def test_steps_count_from_zero_over_all_epochs_and_progress_is_their_share_of_the_run():
    training = trainer(Plain)
    for _ in range(4):
        training.train_epoch()
    assert training.method.ctx.steps == training.steps == 12
    assert training.method.seen == [(step, step / 12) for step in range(12)]


def test_a_resumed_run_counts_on():
    before, after = trainer(Plain), trainer(Plain)
    before.train_epoch()
    after.load_state_dict(before.state_dict())
    after.train_epoch()
    assert [step for step, _ in after.method.seen] == [3, 4, 5]


class SeesOtherStages(Method):
    """Both networks' stages are other ones than the networks give."""

    name, family = "sees_other_stages", "feature"

    def study(self, batch):
        return super().study(batch)._replace(stages=("the student's",))

    def teach(self, batch):
        return super().teach(batch)._replace(stages=("the teacher's",))

    def losses(self, batch, student, teacher):
        assert (student.stages, teacher.stages) == (("the student's",), ("the teacher's",))
        return {"kd": F.mse_loss(student.logits, teacher.logits)}


def test_losses_get_what_study_and_teach_give():
    training = trainer(SeesOtherStages)
    before = training.method.student.model.conv1.weight.clone()
    assert list(training.method.step(first_batch(training), training.optimizers)) == ["kd"]
    assert not torch.equal(training.method.student.model.conv1.weight, before)


def test_a_method_without_a_teacher_is_taught_nothing():
    training = trainer(Plain)
    assert training.method.teach(first_batch(training)) is None


def test_progress_cannot_be_set_apart_from_the_step():
    with pytest.raises(AttributeError):
        trainer(Plain).method.progress = 0.5


@pytest.fixture
def parameters():
    return [torch.zeros(3, requires_grad=True), torch.zeros(4, requires_grad=True)]


def steep(parameters):
    """A loss whose gradient has the elements 30 and 40."""
    return 30 * parameters[0].sum() + 40 * parameters[1].sum()


def test_descending_moves_every_optimizers_parameters_down_this_gradient_alone(parameters):
    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1000.0)  # of an earlier loss
    descend(optimizers, steep(parameters))
    torch.testing.assert_close(parameters, [torch.full((3,), -3.0), torch.full((4,), -4.0)], check_stride=False)


def test_descending_leaves_the_parameters_of_other_optimizers(parameters):
    descend(torch.optim.SGD(parameters[:1], lr=0.1), steep(parameters))
    assert parameters[0].tolist() == [-3.0] * 3 and parameters[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("several", [False, True])
def test_a_gradient_is_clipped_over_all_parameters_together_and_keeps_its_direction(parameters, several):
    groups = [{"params": [parameter]} for parameter in parameters]
    one, two = torch.optim.SGD(groups, lr=1.0), (torch.optim.SGD([group], lr=1.0) for group in groups)
    descend(two if several else one, steep(parameters), clip=5.0)
    moved = torch.cat([parameter.detach() for parameter in parameters])
    assert moved.norm().item() == pytest.approx(5.0, rel=1e-4)
    assert (moved[3] / moved[0]).item() == pytest.approx(4 / 3)


def test_a_gradient_shorter_than_the_clip_is_taken_as_it_is(parameters):
    descend(torch.optim.SGD(parameters, lr=1.0), parameters[0].sum(), clip=5.0)
    assert parameters[0].tolist() == [-1.0] * 3
