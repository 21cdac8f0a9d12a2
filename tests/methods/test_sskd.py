import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, moved, named, recorded, snapshot, softmax, trainer

from kdbench_methods.relation.sskd import SSKD, own_image, selected, similarities, views


def numbers(tensor):
    return tensor.detach().double().numpy()


def similarities_by_hand(features):
    """The cosine similarity of each turned image to each upright one, in loops."""
    count = len(features) // 4
    return np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in features[:count]]
                     for a in features[count:]])


def test_the_views_are_the_images_turned_by_quarters():
    images = torch.randn(3, 2, 4, 4)
    seen = views(images)
    for turn in range(4):
        for image in range(3):
            np.testing.assert_array_equal(seen[3 * turn + image].numpy(), np.rot90(images[image].numpy(), turn, (1, 2)))


def test_similarities_are_cosines_and_each_turned_image_has_its_own():
    features = torch.randn(20, 6, dtype=torch.float64)
    scores = similarities(features)
    np.testing.assert_allclose(scores.numpy(), similarities_by_hand(features.numpy()), rtol=1e-12)
    torch.testing.assert_close(similarities(features * torch.rand(20, 1).add(0.1)), scores)
    same = similarities(torch.randn(5, 6).repeat(4, 1))  # features that do not see the turn
    assert torch.equal(same.argmax(1), own_image(same))


def test_right_answers_are_kept_and_the_least_wrong_of_the_others():
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]])
    target = torch.tensor([0, 1, 3, 2, 3])  # ranks 0, 1, 3, 2, 0
    kept = {share: selected(scores, target, share).tolist() for share in (0.0, 0.4, 0.7, 1.0)}
    assert kept == {0.0: [True, False, False, False, True], 0.4: [True, True, False, False, True],
                    0.7: [True, True, False, True, True], 1.0: [True] * 5}


def test_one_is_kept_where_none_is_right_and_none_is_to_be_kept():
    scores = torch.tensor([[2.0, 1, 0], [2, 1, 0]])
    assert selected(scores, torch.tensor([2, 1]), 0.0).tolist() == [False, True]


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture"])
def test_the_terms_equal_the_equation(pair):
    training = trainer(SSKD, pair, ce=0.3, kd=0.7, turned=2.0, alpha=5.0, temperature=3.0, pretext_temperature=0.4,
                       kept=0.5)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    count = len(batch.labels)
    z, t = numbers(student.logits), numbers(teacher.logits)
    ours = similarities_by_hand(numbers(method.student_head(student.embedding)))
    theirs = similarities_by_hand(numbers(method.teacher_head(teacher.embedding)))
    own = np.tile(np.arange(count), 3)
    rank = (theirs > theirs[np.arange(3 * count), own][:, None]).sum(1)
    order = np.argsort(rank, kind="stable")
    chosen = order[:(rank == 0).sum() + int(0.5 * (rank > 0).sum())]
    assert 0 < len(chosen) < 3 * count
    divergence = 9 * kl(softmax(t / 3), softmax(z / 3))
    expected = {
        "ce": -0.3 * np.log(softmax(z[:count])[range(count), batch.labels.numpy()]).mean(),
        "kd": 0.7 * divergence[:count].mean(), "turned": 2 * divergence[count:].mean(),
        "pretext": 5 * 0.4**2 * kl(softmax(theirs / 0.4), softmax(ours / 0.4))[chosen].mean(),
    }
    terms = {name: term.item() for name, term in method.losses(batch, student, teacher).items()}
    assert terms == {name: pytest.approx(value, rel=1e-3, abs=1e-7) for name, value in expected.items()}


def test_the_first_stage_trains_the_teachers_head_alone_by_the_pretext_task():
    training = trainer(SSKD, head_share=0.25)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step_index = 2
    scores = similarities_by_hand(numbers(method.teacher_head(method.teach(batch).embedding)))
    own = np.tile(np.arange(len(batch.labels)), 3)
    terms = method.step(batch, training.optimizers)
    assert terms.keys() == {"pretext"}
    assert terms["pretext"].item() == pytest.approx(-np.log(softmax(scores)[range(len(own)), own]).mean(), rel=1e-4)
    assert moved(method, before) == named(method, "teacher_head.")


def test_the_second_stage_trains_the_student_and_its_head_alone():
    training = trainer(SSKD, head_share=0.25)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step_index = 3
    assert set(method.step(batch, training.optimizers)) == {"ce", "kd", "turned", "pretext"}
    assert moved(method, before) == set(before) - named(method, "teacher_head.")


def test_a_step_passes_four_views_of_each_image_through_student_and_teacher_which_count():
    training = trainer(SSKD, head_share=0.0)
    with recorded(training.method.student) as by_student, recorded(training.method.ctx.teacher) as by_teacher:
        training.train_epoch()
    steps, batch = training.stream.steps_per_epoch, training.stream.batch_size
    assert sum(len(images) for images, _ in by_student) == steps * 4 * batch
    assert sum(len(images) for images, _ in by_teacher) == steps * 4 * batch
    assert training.relative_passes() == {"student_passes": 4.0, "teacher_passes": 4.0}
    upright, turned = (images for images, _ in by_teacher[:2])
    torch.testing.assert_close(torch.cat([upright, turned]), by_student[0][0])
