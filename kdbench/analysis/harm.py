"""The effect of a method on single classes and images, against the reference trained with the same seeds.

A rising mean accuracy can hide classes that lose. Whether a class lost is tested with two sources of chance: the seeds
and the test images. A test that only pools images over seeds would take the noise of three seeds for an effect.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

MIN_SEEDS = 3  # below, the noise between seeds cannot be estimated, and two predictions have no majority


SIGNIFICANCE = 0.05


class Predicted(NamedTuple):
    """The predictions of one run on the N test images."""

    labels: np.ndarray   # [N]
    classes: np.ndarray  # [N], the predicted classes
    groups: Mapping[str, Sequence[np.ndarray]] = MappingProxyType({})  # by attribute: indices of each group's images


@dataclass(frozen=True)
class ClassChange:
    """The accuracy on one class, or on one group of an attribute, with a method and with the reference, both as means
    over the shared seeds."""

    index: int
    images: int      # number of test images
    reference: float
    accuracy: float
    p: float | None  # p-value of no change, corrected for the number of classes or groups (Holm); None for one image

    @property
    def change(self) -> float:
        return self.accuracy - self.reference

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANCE


@dataclass(frozen=True)
class Harm:
    """A method against the reference, class by class and image by image.

    Flipped images (compression-identified exemplars; Hooker et al., 2019, arXiv:1911.05248) are those whose majority
    prediction over seeds differs between the two.
    """

    seeds: tuple[int, ...]
    classes: tuple[ClassChange, ...]  # of the classes that have test images
    flipped: float                    # share of the test images that are flipped
    flipped_accuracy: float | None    # mean over seeds of the method's accuracy on flipped images; None without any
    flipped_reference: float | None   # the same of the reference
    groups: Mapping[str, tuple[ClassChange, ...]] = field(default_factory=dict)  # by attribute: groups with images
    moved: tuple[int, ...] = ()       # classes that `moved_classes` finds against the reference, uncorrected
    moved_from_teacher: tuple[int, ...] | None = None  # the same against the teacher; None without its predictions

    @property
    def harmed(self) -> tuple[int, ...]:
        return tuple(c.index for c in self.classes if c.significant and c.change < 0)

    @property
    def helped(self) -> tuple[int, ...]:
        return tuple(c.index for c in self.classes if c.significant and c.change > 0)


def harm(method: Mapping[int, Predicted], reference: Mapping[int, Predicted],
         teacher: Predicted | None = None) -> Harm | None:
    """Compare a method with the reference, given the predictions of both by seed and the teacher's if they are known.
    None with fewer than three seeds in common."""
    seeds = sorted(method.keys() & reference.keys())
    if len(seeds) < MIN_SEEDS:
        return None
    ours, theirs = [method[seed] for seed in seeds], [reference[seed] for seed in seeds]
    labels = theirs[0].labels
    correct = np.stack([one.classes == labels for one in ours])        # [S, N]
    before = np.stack([one.classes == labels for one in theirs])
    flipped = majority(ours) != majority(theirs)
    some = bool(flipped.any())
    present = [np.flatnonzero(labels == index) for index in np.unique(labels)]
    return Harm(
        seeds=tuple(seeds), classes=_changes(correct, before, np.unique(labels), present),
        flipped=float(flipped.mean()),
        flipped_accuracy=float(correct[:, flipped].mean()) if some else None,
        flipped_reference=float(before[:, flipped].mean()) if some else None,
        groups={attribute: _changes(correct, before, *_with_images(members))
                for attribute, members in theirs[0].groups.items()},
        moved=tuple(int(labels[present[i][0]]) for i in moved_classes(correct, before, present)),
        moved_from_teacher=None if teacher is None else tuple(
            int(labels[present[i][0]]) for i in moved_classes(correct, (teacher.classes == labels)[None], present)),
    )


def _with_images(members: Sequence[np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
    """The indices of the groups that have images, and the images of each."""
    some = [index for index, own in enumerate(members) if len(own)]
    return some, [members[index] for index in some]


def _changes(correct: np.ndarray, before: np.ndarray, indices: Iterable[int],
             members: Sequence[np.ndarray]) -> tuple[ClassChange, ...]:
    """The change of each class or group. `correct` and `before`, both [S, N], say which images the method and the
    reference classify correctly with each seed; `indices` and `members` are the index and the images of each class or
    group."""
    differences = correct.astype(float) - before
    p_values = holm([crossed_p_value(differences[:, own]) for own in members])
    return tuple(
        ClassChange(int(index), len(own), float(before[:, own].mean()), float(correct[:, own].mean()), p)
        for index, own, p in zip(indices, members, p_values, strict=True)
    )


def moved_classes(correct: np.ndarray, before: np.ndarray, members: Sequence[np.ndarray]) -> list[int]:
    """The positions in `members` of the classes whose accuracy, relative to that on all images, differs significantly.

    This is the count of Mohammadshahi and Ioannou (2025, arXiv:2410.08407), by Welch's t-test over seeds at 5 %. It
    takes the test images as given and is not corrected for the number of classes: where nothing differs, it finds 5 %
    of them. `correct` [S, N] and `before` [R, N] say which images are classified correctly with each seed, and
    `members` has the images of each class. A single row is taken as a constant, as it comes from a single network such
    as a teacher.
    """
    ours, theirs = (np.stack([right[:, own].mean(axis=1) for own in members], axis=1)
                    - right.mean(axis=1, keepdims=True) for right in (correct, before))  # [S, K], [R, K]
    means = ours.mean(axis=0) - theirs.mean(axis=0)
    squares = [one.var(axis=0, ddof=1) / len(one) if len(one) > 1 else np.zeros(len(members)) for one in (ours, theirs)]
    found = []
    for place, (mean, *errors) in enumerate(zip(means, *squares, strict=True)):
        noise = sum(errors)
        if noise < 1e-20:  # only rounding errors: nothing varies
            moved = abs(mean) > 1e-9
        else:
            degrees = noise**2 / sum(error**2 / (len(one) - 1)
                                     for error, one in zip(errors, (ours, theirs), strict=True) if len(one) > 1)
            moved = two_sided(mean / np.sqrt(noise), degrees) < SIGNIFICANCE
        if moved:
            found.append(place)
    return found


def majority(runs: list[Predicted]) -> np.ndarray:
    """The class that most runs predict for each image, [N]; of classes with equally many votes, the earliest run's."""
    classes = np.stack([run.classes for run in runs])                      # [S, N]
    support = np.stack([(classes == own).sum(axis=0) for own in classes])  # of each run's class
    return np.take_along_axis(classes, support.argmax(axis=0)[None], axis=0)[0]


def crossed_p_value(differences: np.ndarray) -> float | None:
    """The two-sided p-value of a mean of zero for differences [seeds, images], where both seeds and images are samples.

    The test is min F' of Clark (1973), F' = S N mean² / (MS_seeds + MS_images) with Satterthwaite's degrees of freedom,
    which is conservative. Since a test of signs could do no better, p is at least 2^(1 - m), where m is the number of
    images whose mean difference is not zero. None for a single image.

    Clark, H. H. (1973). The language-as-fixed-effect fallacy. doi:10.1016/S0022-5371(73)80014-3
    """
    seeds, images = differences.shape
    if images < 2:
        return None
    mean, by_seed, by_image = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    ms_seeds, ms_images = images * by_seed.var(ddof=1), seeds * by_image.var(ddof=1)
    floor = min(1.0, 2.0 ** (1 - np.count_nonzero(by_image)))
    noise = ms_seeds + ms_images
    if noise == 0:
        return floor
    degrees = noise**2 / (ms_seeds**2 / (seeds - 1) + ms_images**2 / (images - 1))
    return max(floor, two_sided(mean * np.sqrt(seeds * images / noise), degrees))


def two_sided(t: float, degrees: float) -> float:
    """The two-sided p-value of Student's t with that many degrees of freedom."""
    from scipy.special import stdtr  # here, because scipy takes a second to import

    return float(2 * stdtr(degrees, -abs(t)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values after Holm's step-down correction, in the same order: the probability of any false positive among
    them stays below the level. None, for what was not tested, stays None and is not counted."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = highest
    return adjusted
