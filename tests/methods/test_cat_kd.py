import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, moved, snapshot, trainer

from kdbench.checks import contract as check
from kdbench.method import Shapes
from kdbench.parts.stages import pool
from kdbench.spec import Architecture
from kdbench_methods.attention.cat_kd import CATKD, class_maps, map_loss


def by_hand(student, teacher):
    """The paper's distance of each class's map, both of norm 1, squared; the mean over elements is its code's."""
    total = 0.0
    for image, label in np.ndindex(*student.shape[:2]):
        units = [x[image, label] / np.sqrt((x[image, label] ** 2).sum()) for x in (student, teacher)]
        total += ((units[0] - units[1]) ** 2).sum()
    return total / student.size


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    teacher = pool(golden["teacher_stage2"], (2, 2))
    golden.check("cat_kd", lambda student: map_loss(pool(student, (2, 2)), teacher))


def test_loss_equals_the_equation():
    student, teacher = torch.randn(2, 4, 3, 5, 2, dtype=torch.float64)
    assert map_loss(student, teacher).item() == pytest.approx(by_hand(student.numpy(), teacher.numpy()), rel=1e-12)
    assert map_loss(3 * teacher, teacher).item() == pytest.approx(0, abs=1e-15)


def test_class_maps_average_to_the_logits():
    training = trainer(CATKD)
    network, batch = training.method.ctx.teacher, first_batch(training)
    outputs = network(batch.images)
    maps = class_maps(outputs.stages[-1], network.classifier.weight)
    assert maps.shape[2:] == outputs.stages[-1].shape[2:]
    torch.testing.assert_close(maps.mean((2, 3)) + network.classifier.bias, outputs.logits)


def test_the_term_compares_maps_pooled_to_the_resolution():
    training = trainer(CATKD, alpha=7.0, resolution=2)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    maps = [np.einsum("kc,bchw->bkhw", network.classifier.weight.detach().double().numpy(),
                      F.adaptive_avg_pool2d(outputs.stages[-1].detach().double(), 2).numpy())
            for network, outputs in ((method.student, student), (method.ctx.teacher, teacher))]
    terms = method.losses(batch, student, teacher)
    assert terms["cat"].item() == pytest.approx(7 * by_hand(*maps), rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_a_student_with_another_head_gets_a_linear_layer_for_its_maps(monkeypatch):
    vit = Architecture(model="test_vit", kwargs={"img_size": 32, "patch_size": 8})
    monkeypatch.setitem(check.PAIRS, "vit student", (check.PAIRS["convolutional"][0], vit))
    training = trainer(CATKD, "vit student")
    method, batch = training.method, first_batch(training)
    assert method.head.weight.shape == (check.CLASSES, 64)
    before = snapshot(method)
    method.step(batch, training.optimizers)
    assert "head.weight" in moved(method, before)


@pytest.mark.parametrize("size", [(4, 4), (1, 4), (4, 1)])
def test_inapplicable_without_class_activation_maps(size):
    pooled, other = (Shapes(8, ((8, 1, 1), (8, 2, 2), (8, *size)), pooled=pooled) for pooled in (True, False))
    point = Shapes(8, ((8, 4, 4), (8, 2, 2), (8, 1, 1)), pooled=True)
    assert CATKD.inapplicable(other, pooled) is None
    assert "average-pooled" in CATKD.inapplicable(pooled, other)
    assert "one position" in CATKD.inapplicable(point, pooled)
    assert "one position" in CATKD.inapplicable(pooled, point)


def test_maps_can_be_compared_without_normalisation():
    student, teacher = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    expected = ((student.numpy() - teacher.numpy()) ** 2).mean()
    assert map_loss(student, teacher, normalise=False).item() == pytest.approx(expected, rel=1e-12)
    training = trainer(CATKD, normalise=False)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    maps = [pool(class_maps(outputs.stages[-1], network.classifier.weight), method.size)
            for network, outputs in ((method.student, student), (method.ctx.teacher, teacher))]
    torch.testing.assert_close(method.losses(batch, student, teacher)["cat"], 15 * F.mse_loss(*maps))
