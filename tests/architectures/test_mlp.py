import pytest
import torch

from kdbench.errors import UserError
from kdbench.networks import build, count_parameters
from kdbench.spec import Architecture
from kdbench.suites.suite import built_in_pairs

DIGITS = (1, 28, 28)


def test_the_pair_is_784_512_256_10_and_784_128_10():
    pair = built_in_pairs()["mlp512-mlp128"]
    teacher, student = (build(side, 10, DIGITS) for side in (pair.teacher.architecture, pair.student))
    assert count_parameters(teacher) == 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10
    assert count_parameters(student) == 784 * 128 + 128 + 128 * 10 + 10
    assert teacher.shapes.stages == ((512, 1, 1), (256, 1, 1)) and student.shapes.stages == ((128, 1, 1),)


def test_it_is_relu_after_linear_layers_computed_by_hand():
    network = build(Architecture(model="mlp", kwargs={"hidden_sizes": [3]}), 2, (1, 2, 2)).eval()
    images, state = torch.randn(4, 1, 2, 2), network.model.state_dict()
    hidden = (images.flatten(1) @ state["layers.0.0.weight"].T + state["layers.0.0.bias"]).clamp(min=0)
    outputs = network(images)
    torch.testing.assert_close(outputs.embedding, hidden)
    torch.testing.assert_close(outputs.stages[0].flatten(1), hidden)
    torch.testing.assert_close(outputs.logits, hidden @ state["classifier.weight"].T + state["classifier.bias"])


def test_dropout_acts_in_training_alone():
    network = build(Architecture(model="mlp", kwargs={"hidden_sizes": [64], "drop_rate": 0.5}), 2, (1, 4, 4))
    images = torch.randn(8, 1, 4, 4)
    assert (network.train()(images).embedding == 0).sum() > (network.eval()(images).embedding == 0).sum()


def test_it_refuses_no_hidden_layer_texts_and_arguments_that_it_does_not_take():
    for kwargs, shape, says in (({"hidden_sizes": []}, DIGITS, "name at least one"), ({}, (16, 100), "takes images"),
                                ({"depth": 3}, DIGITS, "unexpected keyword")):
        with pytest.raises(UserError, match=rf"^mlp\(.*{says}"):
            build(Architecture(model="mlp", kwargs=kwargs), 10, shape)
