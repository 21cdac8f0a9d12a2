from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, transformed_divergence


class TTM(Method):
    """KD that softens the teacher alone. Its temperature is a power transform of its distribution; the student, not
    softened, must match the result, which adds to KD's loss a Rényi entropy of the student as a regulariser.

    loss = CE(student, labels) + alpha KL(q || student),  q_k = p_k^exponent / sum_j p_j^exponent

    p is the teacher's distribution, the exponent the inverse of its temperature. The authors tune exponent and weight
    for each pair; 0.1 and 45 are those of their code's example. No squared temperature: there is none on the student's
    side.
    """

    name, family = "ttm", "logit"
    paper = Paper(
        title="Knowledge Distillation Based on Transformed Teacher Matching",
        authors=("Kaixiang Zheng", "En-Hui Yang"), year=2024, venue="ICLR", arxiv="2402.11148",
    )
    ranges = {"exponent": (0.05, 1.0), "alpha": (0.5, 100.0)}
    unlabelled = "alone"

    def __init__(self, ctx, *, exponent: float = 0.1, alpha: float = 45.0):
        super().__init__(ctx)
        self.exponent, self.alpha = exponent, alpha

    def losses(self, batch, student, teacher):
        divergence = transformed_divergence(student.logits, teacher.logits, self.exponent)
        return {
            "ce": labelled_cross_entropy(student.logits, batch.labels),
            "ttm": self.alpha * divergence.mean(),
        }
