import numpy as np
import pytest
import torch
from support.methods import first_batch, recorded, softmax, trainer

from kdbench_methods.baseline.cutmix import CutMix, box


@pytest.mark.parametrize(("size", "centre", "share", "expected"), [
    ((32, 32), (16, 16), 0.75, [(8, 24), (8, 24)]),    # half of each side: a quarter of the area
    ((32, 16), (16, 8), 0.75, [(8, 24), (4, 12)]),
    ((32, 32), (0, 31), 0.75, [(0, 8), (23, 32)]),     # across two edges
    ((32, 32), (16, 16), 1.0, [(16, 16), (16, 16)]),   # nothing
    ((32, 32), (16, 16), 0.0, [(0, 32), (0, 32)]),     # all
])
def test_a_box_has_its_share_of_the_area_and_is_cut_at_the_edges(size, centre, share, expected):
    assert box(size, centre, share) == expected


def test_cutmix_replaces_one_box_and_mixes_labels_by_its_area():
    t = trainer(CutMix, probability=1.0)
    method, batch = t.method, first_batch(t)
    method.student.classifier.weight.data *= 100  # predictions that differ
    areas = set()
    for seed in range(8):
        torch.manual_seed(seed)
        with recorded(method.student) as seen:
            mixed = method.study(batch)
            terms = method.losses(batch, mixed, None)
        torch.manual_seed(seed)  # draw again
        torch.rand(())
        order = torch.randperm(len(batch.labels))
        (images, outputs), = seen
        replaced = (images != batch.images).any(1).any(0)  # [H, W]
        rows, columns = replaced.any(1), replaced.any(0)
        inside = torch.outer(rows, columns)
        assert torch.equal(torch.where(inside, batch.images[order], batch.images), images)
        assert mixed.share == pytest.approx(1 - inside.sum().item() / inside.numel())
        labels = mixed.share * np.eye(6)[batch.labels] + (1 - mixed.share) * np.eye(6)[batch.labels[order]]
        p = softmax(outputs.logits.detach().double().numpy())
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(
            {"ce": -(labels * np.log(p)).sum(axis=1).mean()}, rel=1e-4)
        areas.add(mixed.share)
    assert len(areas) > 4


def test_a_batch_is_cut_with_the_given_probability():
    for probability, low, high in [(0.0, 0, 0), (0.5, 70, 130), (1.0, 190, 200)]:  # boxes of no area count as uncut
        t = trainer(CutMix, probability=probability)
        batch = first_batch(t)
        outputs = t.method.student(batch.images)
        t.method.student.forward = lambda images, outputs=outputs: outputs  # quick
        assert low <= sum(t.method.study(batch).share < 1 for _ in range(200)) <= high


def test_an_uncut_batch_is_plain_training_and_the_batch_is_left_as_it_was():
    t = trainer(CutMix, probability=0.0)
    batch = first_batch(t)
    terms = t.method.losses(batch, t.method.study(batch), None)
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(trainer(CutMix).method.student(batch.images).logits, batch.labels)
    assert terms["ce"].item() == pytest.approx(expected.item())
    t = trainer(CutMix, probability=1.0)
    before = batch.images.clone()
    for _ in range(4):
        t.method.study(batch)
    assert torch.equal(batch.images, before)
