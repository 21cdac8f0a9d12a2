import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.checks.contract import PAIRS, RECIPE, Subject, random_images
from kdbench.method import Method
from kdbench.networks import weights_sha256
from kdbench.spec import Recipe
from kdbench.train.scoring import predict
from kdbench.train.trainer import DivergedError, LossLog, Trainer, prepare, rate_factor

CPU = torch.device("cpu")


class Recorder(Method):
    """Trains on the labels and remembers what it was given."""

    name, family = "recorder", "baseline"
    learns_from = None

    def __init__(self, ctx, *, draws: int = 0):
        super().__init__(ctx)
        self.first_student = weights_sha256(ctx.student.state_dict())
        self.peer = ctx.new_student() if draws else None
        torch.rand(draws)
        self.seen, self.progress_seen, self.rates = [], [], []

    def step(self, batch, optimizers):
        self.seen.append(batch)
        self.progress_seen.append(self.progress)
        self.rates.append(optimizers["main"].param_groups[0]["lr"])
        torch.rand(3)  # a method's own draws must not move anybody's batches
        return super().step(batch, optimizers)

    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels)}


def trainer_of(seed=0, recipe=RECIPE, cls=Recorder, **hyperparameters):
    method, stream = prepare(cls, hyperparameters, PAIRS["convolutional"][1], None, random_images(), recipe, seed, CPU)
    return Trainer(method, stream, recipe)


def test_with_one_seed_methods_start_from_the_same_student_and_see_the_same_batches():
    plain, drawing = trainer_of(draws=0), trainer_of(draws=5)
    for trainer in (plain, drawing):
        trainer.train_epoch()
        trainer.train_epoch()
    assert plain.method.first_student == drawing.method.first_student
    assert len(plain.method.seen) == len(drawing.method.seen) == 2 * plain.stream.steps_per_epoch
    for a, b in zip(plain.method.seen, drawing.method.seen, strict=True):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(a, b, strict=True))


def test_another_seed_gives_another_student_and_other_batches():
    a, b = trainer_of(seed=0), trainer_of(seed=1)
    a.train_epoch()
    b.train_epoch()
    assert a.method.first_student != b.method.first_student
    assert not torch.equal(a.method.seen[0].positions, b.method.seen[0].positions)


def test_a_peer_differs_from_the_student_and_from_other_peers():
    context = trainer_of().method.ctx
    hashes = {weights_sha256(n.state_dict()) for n in (context.student, context.new_student(), context.new_student())}
    assert len(hashes) == 3


def test_an_epoch_shows_every_image_once():
    trainer = trainer_of()
    trainer.train_epoch()
    positions = torch.cat([batch.positions for batch in trainer.method.seen])
    assert sorted(positions.tolist()) == list(range(len(random_images().train)))


class Attacker(Recorder):
    """Passes each batch twice through the student and once through a peer, and looks at the teacher on one image."""

    learns_from = "teacher"

    def losses(self, batch, student, teacher):
        with torch.no_grad():
            self.student(batch.images)
            self.peer(batch.images)
            self.ctx.teacher(batch.images[:1])
        return super().losses(batch, student, teacher)

    def teach(self, batch):
        return None


def test_the_images_that_pass_through_student_peers_and_teacher_are_counted_in_training_alone():
    trainer = Subject(Attacker, {"draws": 1}, "convolutional").trainer()
    for _ in range(2):
        trainer.train_epoch()
        trainer.method.student(random_images().train.images.take(torch.arange(2)).float())  # as validation does
    assert trainer.relative_passes() == {"student_passes": 3.0, "teacher_passes": 1 / trainer.stream.batch_size}


def test_a_budget_of_updates_is_as_many_more_steps_and_passes():
    method, stream = prepare(Recorder, {}, PAIRS["convolutional"][1], None, random_images(), RECIPE, 0, CPU, updates=3)
    trainer = Trainer(method, stream, RECIPE)
    trainer.train_epoch()
    plain = trainer_of()
    assert len(method.seen) == 3 * plain.stream.steps_per_epoch and trainer.steps == 3 * plain.steps
    assert method.ctx.steps == trainer.steps and trainer.relative_passes()["student_passes"] == 3.0


def test_progress_runs_from_zero_towards_one():
    trainer = trainer_of(recipe=RECIPE.model_copy(update={"epochs": 2}))
    for _ in range(2):
        trainer.train_epoch()
    total = 2 * trainer.stream.steps_per_epoch
    assert trainer.method.progress_seen == [step / total for step in range(total)]


def test_schedules_take_the_values_computed_by_hand():
    base = {"epochs": 10, "batch_size": 2, "image_size": 8, "lr": 1.0}
    cosine = Recipe(**base, schedule="cosine", warmup=0.2)
    assert rate_factor(cosine, 0.1) == pytest.approx(0.5)
    assert rate_factor(cosine, 0.2) == pytest.approx(1.0)
    assert rate_factor(cosine, 0.6) == pytest.approx(0.5)
    assert rate_factor(cosine, 0.4) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert rate_factor(cosine, 1.0) == pytest.approx(0.0)
    linear = Recipe(**base, schedule="linear", warmup=0.5)
    assert [rate_factor(linear, p) for p in (0.25, 0.5, 0.75)] == pytest.approx([0.5, 1.0, 0.5])
    step = Recipe(**base, schedule="step", milestones=(5, 8), gamma=0.1)
    assert [rate_factor(step, p) for p in (0.49, 0.5, 0.79, 0.8)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 1.0])
def test_each_part_of_a_run_has_the_whole_schedule_for_itself(share):
    class InTwoParts(Recorder):
        def __init__(self, ctx, **kwargs):
            super().__init__(ctx, **kwargs)
            self.first_part, self.preparing = share, []

        def step(self, batch, optimizers):
            self.preparing.append(self.in_first_part)
            return super().step(batch, optimizers)

    recipe = RECIPE.model_copy(update={"epochs": 4, "lr": 1.0, "warmup": 0.5})
    trainer = trainer_of(cls=InTwoParts, recipe=recipe)
    for _ in range(4):
        trainer.train_epoch()
    total = trainer.steps
    first = math.ceil(share * total)
    expected = [rate_factor(recipe, (i + .5) / length) for length in (first, total - first) for i in range(length)]
    assert trainer.method.rates == expected and trainer.method.preparing == [i < first for i in range(total)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_second_part_of_a_run_begins_as_a_run_from_the_weights_that_the_first_ended_with(optimizer):
    class Prepared(Recorder):
        def __init__(self, ctx, **kwargs):
            super().__init__(ctx, **kwargs)
            self.first_part = 0.5

        def losses(self, batch, student, teacher):
            weight = 1e3 if self.in_first_part else 1.0
            return {"ce": weight * F.cross_entropy(student.logits, batch.labels)}

    recipe = RECIPE.model_copy(update={"epochs": 2, "optimizer": optimizer, "warmup": 0.5})
    whole = trainer_of(cls=Prepared, recipe=recipe)
    whole.train_epoch()
    fresh = trainer_of(recipe=recipe.model_copy(update={"epochs": 1}))
    fresh.method.load_state_dict(whole.method.state_dict())
    for step, batch in enumerate(whole.stream.epoch(1)):
        whole.train_step(whole.stream.steps_per_epoch + step, batch)
        fresh.train_step(step, batch)
    assert weights_sha256(whole.method.student.state_dict()) == weights_sha256(fresh.method.student.state_dict())


def test_the_recipes_optimizers_follow_the_schedule_with_their_own_scale():
    class Scaled(Recorder):
        def optimizers(self, make):
            return {"main": make(self.parameters(), scale=0.5)}

    trainer = trainer_of(cls=Scaled, recipe=RECIPE.model_copy(update={"epochs": 1, "warmup": 0.0}))
    trainer.train_epoch()
    steps = trainer.stream.steps_per_epoch
    expected = [0.5 * RECIPE.lr * rate_factor(trainer.recipe, (i + 0.5) / steps) for i in range(steps)]
    assert trainer.method.rates == pytest.approx(expected)


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_recipe_names_the_optimizer_and_its_constants(optimizer, kind):
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "momentum": 0.8, "weight_decay": 0.01})
    (made,) = trainer_of(recipe=recipe).optimizers.values()
    assert type(made) is kind
    assert made.param_groups[0]["weight_decay"] == 0.01
    assert made.param_groups[0].get("momentum", 0.8) == 0.8


def test_one_step_is_plain_sgd_on_the_sum_of_the_terms():
    recipe = RECIPE.model_copy(update={
        "epochs": 1, "warmup": 0.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "batch_size": 24})
    reference = trainer_of(recipe=recipe)
    batch = next(reference.stream.epoch(0))
    student = reference.method.student.train()
    F.cross_entropy(student(batch.images).logits, batch.labels).backward()
    rate = RECIPE.lr * rate_factor(recipe, 0.5)
    expected = {n: p.detach() - rate * p.grad for n, p in student.named_parameters()}
    trainer = trainer_of(recipe=recipe)
    trainer.train_epoch()
    for name, parameter in trainer.method.student.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])


def test_the_log_gives_means_per_term_and_of_their_sum():
    log = LossLog()
    log.add(0, {"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    log.add(1, {"a": torch.tensor(3.0)})
    assert log.means() == {"loss": 7.0, "loss.a": 2.0, "loss.b": 10.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [0, 19, 20, 33])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_term_and_step(value, step):
    log = LossLog()
    with pytest.raises(DivergedError, match=f"diverged at step {step}: b is {value}"):
        for i in range(40):
            log.add(i, {"a": torch.tensor(1.0), "b": torch.tensor(value if i == step else 1.0)})
        log.means()


def test_predictions_are_made_in_eval_mode_without_touching_the_network():
    subject = Subject(Recorder, {}, "convolutional")
    student = subject.trainer().method.student.train()
    before = weights_sha256(student.state_dict())
    stream, data = subject.trainer().stream, random_images()
    logits = predict(student, data.test, stream.normalise, 32)
    student.eval()
    with torch.no_grad():
        images = stream.normalise(data.test.images.take(torch.arange(len(data.test))))
        expected = student(images).logits.numpy()
    student.train()
    assert logits.shape == (len(data.test), 6) and abs(logits - expected).max() < 1e-5
    assert student.training and weights_sha256(student.state_dict()) == before
    assert len(predict(student, data.test, stream.normalise, 32, limit=5)) == 5


def test_a_data_free_method_gets_no_batch_labels_or_images():
    class Blind(Recorder):
        needs_data = False

        def step(self, batch, optimizers):
            assert batch is None
            return {"x": nn.functional.softplus(self.student(torch.zeros(2, 3, 32, 32)).logits).mean()}

    trainer = trainer_of(cls=Blind)
    trainer.train_epoch()
    assert trainer.method.ctx.train_labels is None
    with pytest.raises(RuntimeError, match="asked for training images"):
        trainer.method.ctx.sample(torch.tensor([0]))


def test_groups_of_training_images_are_given_to_methods_that_say_they_need_them_and_to_no_others():
    class Grouped(Recorder):
        needs_groups = True

    ctx = trainer_of(cls=Grouped).method.ctx
    assert torch.equal(ctx.train_groups["half"], random_images().train.groups["half"])
    assert ctx.group_names == {"half": ("first", "second")}
    assert (trainer_of().method.ctx.train_groups, trainer_of().method.ctx.group_names) == ({}, {})
