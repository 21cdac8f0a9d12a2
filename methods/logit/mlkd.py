import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def batch_level(student, teacher):
    """The squared difference of the inner products of the batch's predictions, summed and divided by the batch's size.
    Both are probabilities [B, K]."""
    return (student @ student.T - teacher @ teacher.T).square().sum() / len(student)


def class_level(student, teacher):
    """The squared difference of the inner products of the classes' predictions over the batch, summed and divided by
    the number of classes. Both are probabilities [B, K]."""
    return (student.T @ student - teacher.T @ teacher).square().sum() / student.shape[1]


class MLKD(Method):
    """Multi-level logit distillation: the student learns the teacher's prediction for each image, how similar the
    predictions for the images of a batch are, and how classes go together over the batch, each at five temperatures.

    loss = ce_weight CE(student, labels) + sum over T of [alpha T^2 KL(teacher || student)
           + batch_weight |P P' - Q Q'|^2 / B + class_weight |P' P - Q' Q|^2 / K],  T = 2, 3, 4, 5, 6

    P and Q are the class probabilities [B, K] of teacher and student at temperature T, ' the transpose, |.| the
    Frobenius norm. The authors train on a second, strongly augmented view of each image, which the other methods do not
    get (RandAugment, twice the passes). That would be an unfair gift and is left out here, as in MLKD_NOAUG of
    zju-SWJ/RLD; results are below the authors' for that reason. ce_weight 0.1 is theirs. Their weight of the rest is
    0.9; they mask samples and classes of which the teacher is sure, but multiply losses by the mask that are averaged
    already, so that a mask of one half halves them: the three weights are 0.45.

    The sums grow with the images per class: that over the batch has B^2 / K pairs of one class, which its 1 / B makes
    B / K; the entries of P' P are sums over as many images, and their squares go as (B / K)^2. The weights are for the
    authors' 64 images of 100 classes. For others take batch_weight = 0.45 r and class_weight = 0.45 r^2 with
    r = 0.64 K / B: 0.045 and 0.0045 for 64 images of 10 classes.
    """

    name, family = "mlkd", "logit"
    paper = Paper(
        title="Multi-Level Logit Distillation", authors=("Ying Jin", "Jiaqi Wang", "Dahua Lin"),
        year=2023, venue="CVPR", doi="10.1109/CVPR52729.2023.02325",
    )
    ranges = {"alpha": (0.0, 4.0), "batch_weight": (0.0, 4.0), "class_weight": (0.0, 4.0),
              "ce_weight": (0.0, 1.0)}
    unlabelled = "alone"

    def __init__(self, ctx, *, alpha: float = 0.45, batch_weight: float = 0.45, class_weight: float = 0.45,
                 ce_weight: float = 0.1):
        super().__init__(ctx)
        self.alpha, self.ce_weight = alpha, ce_weight
        self.batch_weight, self.class_weight = batch_weight, class_weight

    def losses(self, batch, student, teacher):
        softened = [(F.softmax(student.logits / t, dim=1), F.softmax(teacher.logits / t, dim=1)) for t in TEMPERATURES]
        instances = sum(soft_cross_entropy(student.logits, teacher.logits, t) for t in TEMPERATURES)
        return {
            "ce": self.ce_weight * labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * instances,
            "batch": self.batch_weight * sum(batch_level(s, t) for s, t in softened),
            "class": self.class_weight * sum(class_level(s, t) for s, t in softened),
        }
