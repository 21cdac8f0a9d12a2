"""Metrics of the accuracy on attacked and on corrupted images. `kdbench.robustness` measures them."""

from kdbench.metrics.metric import Metric
from kdbench.metrics.papers import CROCE, HENDRYCKS, MADRY

SUBSET = 500  # test images that are attacked and corrupted; one of each class if there are more classes than that
STEPS = 10    # steps of projected gradient ascent

_RADIUS = "the radius that `kdbench list datasets` tells, in the L-infinity norm"

_MEASURED = (
    Metric("clean_accuracy", "clean accuracy", "share", "higher",
           f"Accuracy on a fixed, class-stratified subset of {SUBSET} test images (all if there are fewer, one of each "
           "class if that is more): what the other figures of robustness start from.", of="run", short="clean"),
    Metric("pgd_accuracy", "PGD accuracy", "share", "higher",
           f"Share of clean accuracy's images that are right and stay so at each of {STEPS} steps of projected "
           "gradient ascent on the cross-entropy, each of a quarter of the radius, from a seeded random start, and the "
           f"same within the small radius of PGD (small), which lies inside; within {_RADIUS}.",
           MADRY, of="run", short="PGD"),
    Metric("pgd_small_accuracy", "PGD accuracy, small radius", "share", "higher",
           "PGD accuracy within the small radius that `kdbench list datasets` tells: what tells networks apart that "
           "were not made robust, of which little withstands the larger one.",
           MADRY, of="run", short="PGD (small)"),
    Metric("corruption_accuracy", "corruption accuracy", "share", "higher",
           "Accuracy on clean accuracy's images, mean over Gaussian noise, Gaussian blur, contrast, brightness and "
           "JPEG compression, each at the severities 1, 3 and 5 that the reference gives for small (up to 64 pixels) "
           "or large images. Of texts, mean over words that are missing and words that are misspelt, and so unknown: "
           "10, 30 and 50 % of them each.",
           HENDRYCKS, of="run", short="corrupted"),
)
ROBUSTNESS = (
    *_MEASURED,
    Metric("autoattack_accuracy", "AutoAttack accuracy", "share", "higher",
           "Share of clean accuracy's images that are classified right and stay so under AutoAttack's standard "
           f"ensemble, within {_RADIUS}; added by `kdbench attack`.", CROCE, of="run", short="AutoAttack"),
    Metric("autoattack_small_accuracy", "AutoAttack accuracy, small radius", "share", "higher",
           "AutoAttack accuracy within the small radius that `kdbench list datasets` tells, as of PGD (small): whether "
           "what withstands PGD there withstands a stronger attack.", CROCE, of="run", short="AutoAttack (small)"),
    *(metric.of_teacher() for metric in _MEASURED),
)
MEASURED = tuple(metric.name for metric in _MEASURED)  # what each run measures of its own student
