import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, named, random_logits, snapshot, softmax, trainer

from kdbench.method import Shapes
from kdbench.parts.losses import ranks, zipf_cross_entropy
from kdbench_methods.self.zipf_ls import ZipfLS, votes

LABELS = torch.tensor([0, 3, 2, 2])
LOGITS = random_logits(4, 5)


def numpy_zipf(logits, labels, scores):
    total = 0.0
    for z, label, row in zip(logits, labels, scores, strict=True):
        others = [k for k in range(len(z)) if k != label]
        target = np.array([1 / (1 + sum(other > row[k] for other in row)) for k in others])
        total -= (target / target.sum() * np.log(softmax(z[others]))).sum()
    return total / len(labels)


def test_ranks_count_from_the_largest_and_ties_share_the_best_of_theirs():
    scores = torch.tensor([[0, 7, 2, 2, 0], [1, 1, 1, 1, 1]])
    assert ranks(scores).tolist() == [[4, 1, 2, 2, 4], [1, 1, 1, 1, 1]]
    assert ranks(torch.tensor([[0.5, -1.0, 3.0]])).tolist() == [[2, 3, 1]]


@pytest.mark.parametrize("scores", [random_logits(4, 5, seed=1), torch.tensor([[0, 7, 2, 2, 0]] * 4)])
def test_zipf_cross_entropy_is_the_papers_in_numpy(scores):
    expected = numpy_zipf(LOGITS.numpy(), LABELS.numpy(), scores.numpy())
    assert zipf_cross_entropy(LOGITS, LABELS, scores).item() == pytest.approx(expected)


def test_zipf_cross_entropy_is_smallest_where_the_other_classes_fall_as_one_over_their_rank():
    scores = torch.tensor([[9.0, 4.0, 3.0, 2.0]])  # the label's class is the first, the others have ranks 2, 3 and 4
    logits = torch.tensor([[5.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    logits[0, 1:] = torch.log(1 / torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    logits.requires_grad_()
    zipf_cross_entropy(logits, torch.tensor([0]), scores).backward()
    assert logits.grad.abs().max() < 1e-12


def test_zipf_cross_entropy_says_nothing_of_the_labels_class():
    logits = LOGITS.clone().requires_grad_()
    zipf_cross_entropy(logits, LABELS, random_logits(4, 5, seed=1)).backward()
    assert (logits.grad.gather(1, LABELS[:, None]) == 0).all() and (logits.grad != 0).sum() == 16


def test_positions_vote_for_the_class_that_the_classifier_gives_them():
    classifier = torch.nn.Linear(2, 3, bias=False)
    classifier.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    stage = torch.tensor([[[[5.0, 5.0], [5.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert votes(stage, classifier).tolist() == [[16, 0, 0]]  # of 4 x 4 positions: twice the size
    stage = torch.tensor([[[[5.0, 0.0], [5.0, 0.0]], [[0.0, 5.0], [0.0, 5.0]]]])
    counts = votes(stage, classifier)
    assert counts.tolist() == [[8, 8, 0]]


@pytest.mark.parametrize("pair", ["convolutional", "vit"])  # of which only the first's classifier reads a mean of maps
def test_zipf_ls_is_the_papers_sum(pair):
    t = trainer(ZipfLS, pair, alpha=0.5, auxiliary=0.3)
    method, batch = t.method, first_batch(t)
    student = method.student(batch.images)
    pooled = pair == "convolutional"
    readers = [*method.heads, *([method.student.classifier] if pooled else [])]
    assert len(readers) == 2
    terms = method.losses(batch, student, None)

    counts, heads = 0, 0.0
    rows, labels = range(len(batch.labels)), batch.labels.numpy()
    for stage, reader in zip(student.stages[-2:], readers, strict=True):
        weight, bias = reader.weight.detach().numpy(), reader.bias.detach().numpy()
        large = F.interpolate(stage, scale_factor=2, mode="bilinear").detach().numpy()
        top = (np.einsum("bchw,kc->bhwk", large, weight) + bias).argmax(axis=3).reshape(len(labels), -1)
        counts = counts + np.array([np.bincount(row, minlength=6) for row in top])
        if reader in list(method.heads):
            logits = stage.detach().double().numpy().mean(axis=(2, 3)) @ weight.T + bias
            heads -= np.log(softmax(logits)[rows, labels]).mean()
    logits = student.logits.detach().double().numpy()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "ce": -np.log(softmax(logits)[rows, labels]).mean(),
        "zipf": 0.5 * numpy_zipf(logits, labels, counts), "heads": 0.3 * heads,
    }, rel=1e-4)


def test_the_heads_are_trained_and_left_behind():
    t = trainer(ZipfLS)
    before = snapshot(t.method)
    t.method.step(first_batch(t), t.optimizers)
    assert named(t.method, "heads.") <= moved(t.method, before)
    assert t.method.deployed() is t.method.student


def test_a_student_of_one_stage_is_refused():
    stage = (8, 1, 1)
    assert "no stage before" in ZipfLS.inapplicable(Shapes(8, (stage,), pooled=True), None)
    assert ZipfLS.inapplicable(Shapes(8, (stage, stage), pooled=True), None) is None
