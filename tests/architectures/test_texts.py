import pytest
import torch

from kdbench.errors import UserError
from kdbench.networks import build, dummy_inputs
from kdbench.spec import Architecture

SHAPE = (6, 20)  # tokens, words
NAMES = {"text_bag": {"embed_dim": 8}, "text_transformer": {"embed_dim": 8, "depth": 2}}


def network(name, **kwargs):
    torch.manual_seed(0)
    return build(Architecture(model=name, kwargs={**NAMES[name], **kwargs}), 5, SHAPE).eval()


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_and_words_do(name):
    made = network(name)
    short, longer = torch.tensor([[3, 4, 5, 0, 0, 0]]), torch.tensor([[3, 4, 5, 6, 0, 0]])
    with torch.no_grad():
        before = made(short).logits
        made.model.embedding.table.weight[0] = 7 * torch.randn(8)  # what padding is embedded as must not be seen
        torch.testing.assert_close(made(short).logits, before)
        alone, beside = made(short), made(torch.cat([short, longer]))
        torch.testing.assert_close(alone.logits[0], beside.logits[0])
        assert not torch.allclose(beside.logits[0], beside.logits[1])
        assert all((stage[..., 3:] == 0).all() for stage in alone.stages)
        torch.testing.assert_close(made.classifier(alone.embedding), alone.logits)


def test_the_transformer_reads_the_order_of_words_and_the_bag_does_not():
    there, back = torch.tensor([[3, 4, 5, 6, 7, 8]]), torch.tensor([[8, 7, 6, 5, 4, 3]])
    with torch.no_grad():
        torch.testing.assert_close(network("text_bag")(there).logits, network("text_bag")(back).logits)
        made = network("text_transformer")
        assert not torch.allclose(made(there).logits, made(back).logits, atol=1e-4)


def test_the_bag_is_the_mean_of_embeddings_through_a_linear_layer():
    made = network("text_bag")
    table, classifier = made.model.embedding.table.weight, made.classifier
    expected = classifier(table[[3, 4, 4]].mean(0))
    torch.testing.assert_close(made(torch.tensor([[3, 4, 4, 0, 0, 0]])).logits[0], expected)


def test_stages_are_maps_of_positions():
    assert network("text_bag").shapes.stages == ((8, 1, 6),)
    assert network("text_transformer").shapes.stages == ((8, 1, 6),) * 3
    assert network("text_transformer", depth=9).shapes.stages == ((8, 1, 6),) * 4


def test_words_become_unknown_in_training_alone():
    made = network("text_bag", patch_drop_rate=0.5)
    tokens = torch.full((4, 6), 7)
    assert torch.equal(made(tokens).logits[0], made(tokens).logits[1])
    made.train()
    unknown = (made.model.embedding(tokens) == made.model.embedding.table.weight[1]).all(-1)
    assert 0 < int(unknown.sum()) < 24


@pytest.mark.parametrize(("model", "kwargs", "shape", "says"), [
    ("text_bag", {}, (3, 8, 8), "text_bag.* takes texts, and the dataset holds images"),
    ("text_transformer", {"num_heads": 3}, SHAPE, "embed_dim 64 is no multiple of num_heads 3"),
    ("text_transformer", {"depth": 0}, SHAPE, "depth 0: at least 1"),
    ("test_resnet", {}, SHAPE, "test_resnet: timm's models take images, and the dataset holds texts; allowed: mlp, "),
])
def test_networks_refuse_the_other_kind_of_inputs_and_shapes_that_cannot_be(model, kwargs, shape, says):
    with pytest.raises(UserError, match=says):
        build(Architecture(model=model, kwargs=kwargs), 5, shape)


def test_dummy_texts_have_different_lengths_and_only_known_words():
    tokens = dummy_inputs(3, SHAPE)
    assert (tokens > 0).sum(1).tolist() == [6, 5, 4] and int(tokens.max()) < 20
    assert (dummy_inputs(9, SHAPE) > 0).any(1).all()
