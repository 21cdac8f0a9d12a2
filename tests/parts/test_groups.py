from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdbench.errors import UserError
from kdbench.parts.groups import WorstCells, attribute_of, balanced_weights, cells_of

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
GROUPS = {"tint": torch.tensor([0, 0, 0, 1, 1, 1, 0, 1]), "place": torch.tensor([2, 1, 0, 2, 1, 0, 2, 1])}
CTX = SimpleNamespace(train_labels=LABELS, train_groups=GROUPS,
                      group_names={"tint": ("warm", "cool"), "place": ("a", "b", "c")})


def test_the_attribute_is_the_first_one_unless_another_is_named():
    assert attribute_of(["tint", "bias"], "") == "tint"
    assert attribute_of(["tint", "bias"], "bias") == "bias"
    with pytest.raises(UserError, match=r"unknown attribute of training images 'bas'; did you mean 'bias'\?"):
        attribute_of(["tint", "bias"], "bas")
    with pytest.raises(UserError, match="the training images have no attributes"):
        attribute_of([], "")


def test_a_cell_is_a_class_together_with_a_group_of_the_attribute():
    assert cells_of(CTX, "").tolist() == [0, 0, 0, 1, 3, 3, 4, 5]
    assert cells_of(CTX, "place").tolist() == [2, 1, 0, 2, 4, 3, 8, 7]


def test_weights_have_mean_one_and_each_cell_with_images_has_the_same_sum():
    weights = balanced_weights(cells_of(CTX, ""))
    assert weights.tolist() == pytest.approx([8 / 15, 8 / 15, 8 / 15, 8 / 5, 8 / 10, 8 / 10, 8 / 5, 8 / 5])
    assert weights.mean().item() == pytest.approx(1)
    assert balanced_weights(torch.arange(6) % 3).tolist() == [1] * 6


def by_hand(rounds, cells, step_size):
    """The losses of several batches, [(losses, positions)], by Sagawa et al.'s updates in loops, and q after each."""
    names = sorted(set(cells.tolist()))
    q, found = dict.fromkeys(names, 1 / len(names)), []
    for losses, positions in rounds:
        means = dict.fromkeys(names, 0.0)
        for loss, position in zip(losses.tolist(), positions.tolist(), strict=True):
            name = cells[position].item()
            means[name] += loss * len(cells) / (len(losses) * (cells == name).sum().item())
        q = {name: q[name] * np.exp(step_size * means[name]) for name in names}
        q = {name: value / sum(q.values()) for name, value in q.items()}
        found.append((sum(q[name] * means[name] for name in names), [q[name] for name in names]))
    return found


def test_a_step_too_large_for_a_float_leaves_all_weight_to_the_worst_cell_and_the_others_able_to_come_back():
    worst = WorstCells(torch.tensor([0] * 3 + [1] * 3), 1.0)
    losses, positions = torch.tensor([400.0, 1.0]), torch.tensor([0, 3])
    assert worst(losses, positions).item() == pytest.approx(400.0)
    assert worst.q.tolist() == [1.0, pytest.approx(0.0, abs=1e-30)] and (worst.q > 0).all()
    for _ in range(2):
        worst(losses.flip(0), positions)
    assert worst.q.tolist() == [pytest.approx(0.0, abs=1e-30), 1.0] and (worst.q > 0).all()


def test_the_worst_cells_get_the_weights_of_the_equations():
    cells, generator = cells_of(CTX, ""), torch.Generator().manual_seed(0)
    rounds = [(5 * torch.rand(4, generator=generator), torch.randperm(8, generator=generator)[:4]) for _ in range(3)]
    worst = WorstCells(cells, 0.3)
    for (losses, positions), (loss, q) in zip(rounds, by_hand(rounds, cells, 0.3), strict=True):
        assert worst(losses, positions).item() == pytest.approx(loss, rel=1e-5)
        assert worst.q.tolist() == pytest.approx(q, rel=1e-5)


def test_without_steps_the_loss_is_that_of_balanced_weights():
    cells, losses, positions = cells_of(CTX, ""), torch.tensor([1.0, 4.0, 2.0]), torch.tensor([0, 5, 7])
    expected = (balanced_weights(cells)[positions] * losses).mean()
    assert WorstCells(cells, 0.0)(losses, positions).item() == pytest.approx(expected.item())


def test_a_cell_whose_losses_stay_high_comes_to_have_all_the_weight():
    cells = cells_of(CTX, "")
    worst = WorstCells(cells, 0.1)
    for _ in range(200):
        worst((cells == 3).float(), torch.arange(8))
    assert worst.q.argmax().item() == 2 and worst.q.max() > 0.99  # the third of the cells that have images
    assert worst.q.sum().item() == pytest.approx(1)


def test_the_loss_is_what_gradients_go_through_and_the_weights_are_not():
    cells, losses = cells_of(CTX, ""), torch.arange(8.0, requires_grad=True)
    worst = WorstCells(cells, 0.5)
    worst(losses, torch.arange(8)).backward()
    expected = worst.q[worst.ranks] / torch.bincount(cells)[cells]
    torch.testing.assert_close(losses.grad, expected)
