import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, transformed_divergence


def power_sum(teacher_logits, exponent):
    """sum_k p_k^exponent of each sample [B], from logits [B, K]; for an exponent below 1 it grows from 1, where the
    teacher is sure, to K^(1 - exponent), where its distribution is uniform."""
    return F.softmax(teacher_logits, dim=1).pow(exponent).sum(dim=1)


class WTTM(Method):
    """TTM that cares more for the samples on which the teacher's distribution is smooth: these have more to tell beside
    their label.

    loss = CE(student, labels) + alpha mean_i [U_i KL(q_i || student_i)],  U = sum_k p_k^exponent, q = p^exponent / U

    p is the teacher's distribution, the exponent the inverse of its temperature. U goes from 1 to K^(1 - exponent) for
    K classes. The authors tune exponent and weight for each pair; 0.2 and 4 are those of their code's example, in which
    another method's loss is added.
    """

    name, family = "wttm", "logit"
    paper = Paper(
        title="Knowledge Distillation Based on Transformed Teacher Matching",
        authors=("Kaixiang Zheng", "En-Hui Yang"), year=2024, venue="ICLR", arxiv="2402.11148",
    )
    ranges = {"exponent": (0.05, 1.0), "alpha": (0.1, 100.0)}
    unlabelled = "alone"

    def __init__(self, ctx, *, exponent: float = 0.2, alpha: float = 4.0):
        super().__init__(ctx)
        self.exponent, self.alpha = exponent, alpha

    def losses(self, batch, student, teacher):
        divergence = transformed_divergence(student.logits, teacher.logits, self.exponent)
        return {
            "ce": labelled_cross_entropy(student.logits, batch.labels),
            "wttm": self.alpha * (power_sum(teacher.logits, self.exponent) * divergence).mean(),
        }
