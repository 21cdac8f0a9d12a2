import numpy as np
import pytest
import torch
from support.methods import first_batch, moved, recorded, snapshot, softmax, trainer

from kdbench_methods.attention.deit import DeiT, distilled


def numbers(tensor):
    return tensor.detach().double().numpy()


def cross_entropy(logits, labels):
    return -np.log(softmax(logits)[range(len(labels)), labels]).mean()


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture", "vit"])
def test_the_terms_equal_the_equation(pair):
    training = trainer(DeiT, pair, alpha=0.2)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    outputs, feature = student
    second = numbers(feature) @ numbers(method.head.weight).T + numbers(method.head.bias)
    decision = numbers(teacher.logits).argmax(1)
    assert (decision != batch.labels.numpy()).any()
    terms = {name: term.item() for name, term in method.losses(batch, student, teacher).items()}
    assert terms == {"ce": pytest.approx(cross_entropy(numbers(outputs.logits), batch.labels.numpy()), rel=1e-4),
                     "kd": pytest.approx(0.2 * cross_entropy(second, decision), rel=1e-4)}


@pytest.mark.parametrize("pair", ["convolutional", "vit"])
def test_only_the_teachers_decision_counts(pair):
    training = trainer(DeiT, pair)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    losses = [method.losses(batch, student, teacher._replace(logits=logits))["kd"].item()
              for logits in (teacher.logits, 7 * teacher.logits + 3, teacher.logits.roll(1, 1))]
    assert losses[0] == losses[1] != losses[2]


def test_a_transformers_token_goes_through_its_blocks_behind_the_class_token():
    method = trainer(DeiT, "vit").method
    model, images = method.student.model, torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(images))
        tokens = torch.cat([tokens[:, :1], method.token.expand(5, 1, -1), tokens[:, 1:]], dim=1)
        for block in model.blocks:
            tokens = block(tokens)
        tokens = model.norm(tokens)
        outputs, feature = distilled(method.student, images, method.token)
    torch.testing.assert_close(feature, tokens[:, 1])
    torch.testing.assert_close(outputs.embedding, tokens[:, 0])
    patches = tokens[:, 2:].transpose(1, 2)
    torch.testing.assert_close(model.norm(outputs.stages[-1].permute(0, 2, 3, 1)).flatten(1, 2), patches.mT)


def test_a_pass_with_the_token_leaves_the_transformer_as_it_was_and_counts_as_one():
    method = trainer(DeiT, "vit").method
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = method.student(images)
        with recorded(method.student) as seen:
            with_token, _ = distilled(method.student, images, method.token)
        after = method.student(images)
    assert torch.equal(before.logits, after.logits) and method.student.model.num_prefix_tokens == 1
    assert [len(shown) for shown, _ in seen] == [2]
    assert not torch.allclose(before.logits, with_token.logits)
    assert [stage.shape for stage in with_token.stages] == [stage.shape for stage in before.stages]


def test_a_failing_pass_leaves_the_transformer_as_it_was():
    method = trainer(DeiT, "vit").method
    with pytest.raises((RuntimeError, AssertionError)):
        distilled(method.student, torch.randn(2, 3, 31, 31), method.token)
    assert method.student.model.num_prefix_tokens == 1
    assert not method.student.model.norm_pre._forward_hooks and not method.student.model.norm._forward_hooks


def test_a_student_without_a_place_for_the_token_reads_its_embedding_twice():
    for pair in ("convolutional", "cross-architecture"):
        training = trainer(DeiT, pair)
        method, batch = training.method, first_batch(training)
        outputs, feature = method.study(batch)
        assert method.token is None and feature is outputs.embedding


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture", "vit"])
def test_the_deployed_network_averages_the_logits_of_both_classifiers(pair):
    training = trainer(DeiT, pair)
    method, batch = training.method, first_batch(training)
    method.step(batch, training.optimizers)
    deployed = method.deployed().eval()
    with torch.no_grad():
        outputs, feature = distilled(method.student, batch.images, method.token)
        expected = (numbers(outputs.logits) + numbers(method.head(feature))) / 2
        np.testing.assert_allclose(numbers(deployed(batch.images).logits), expected, atol=1e-5)
    assert {name.split(".")[0] for name in deployed.state_dict()} == \
        {"student", "head"} | ({"token"} if pair == "vit" else set())


@pytest.mark.parametrize("pair", ["convolutional", "vit"])
def test_a_step_moves_everything(pair):
    training = trainer(DeiT, pair)
    method, before = training.method, snapshot(training.method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert ("token" in before) == (pair == "vit")
