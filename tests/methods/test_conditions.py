"""The words that tables show beside methods that learn under other conditions than their family: each is what a step of
the method does, with its default hyperparameters."""

import pytest
from support.methods import first_batch, trainer

from kdbench.plugins.registry import Registry, load

REGISTRY = Registry()
LAST_STEP = 11
METHODS = [info.name for info in REGISTRY.values()
           if info.family in ("baseline", "logit", "feature", "attention", "relation", "self")]
TAUGHT = [name for name in METHODS if REGISTRY[name].learns_from == "teacher" and REGISTRY[name].family != "logit"]


def last_step(name):
    """The method about to take its run's last step, and the batch for it."""
    training = trainer(load(REGISTRY[name]))
    training.method.step_index = LAST_STEP
    return training, first_batch(training)


@pytest.mark.parametrize("name", TAUGHT)
def test_with_kd_says_that_the_loss_of_another_family_contains_the_softened_teacher(name):
    training, batch = last_step(name)
    terms = training.method.losses(batch, training.method.study(batch), training.method.teach(batch))
    assert ("kd" in terms) == ("with kd" in REGISTRY[name].conditions)


@pytest.mark.parametrize("name", METHODS)
def test_no_labels_says_that_the_loss_does_not_depend_on_the_labels(name):
    losses = []
    for shift in (0, 1):
        training, batch = last_step(name)
        batch = batch._replace(labels=(batch.labels + shift) % training.method.ctx.num_classes)
        losses.append(sum(training.method.step(batch, training.optimizers).values()).item())
    assert (losses[0] == losses[1]) == ("no labels" in REGISTRY[name].conditions)


@pytest.mark.parametrize("name", METHODS)
def test_2_runs_says_that_a_copy_of_the_student_was_trained_before(name):
    assert (REGISTRY[name].learns_from == "student") == ("2 runs" in REGISTRY[name].conditions)


@pytest.mark.parametrize("name", METHODS)
def test_assistant_says_that_another_network_was_trained_before(name):
    assert (REGISTRY[name].learns_from == "assistant") == ("assistant" in REGISTRY[name].conditions)
