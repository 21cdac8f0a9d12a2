from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy


def standardise(logits):
    """Logits [B, K], each row shifted and scaled to mean 0 and standard deviation 1."""
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-7)


class LSKD(Method):
    """KD on standardised logits: the student learns the relations between the teacher's logits, not their size. Without
    that, a temperature shared by both would ask a small network for the range and variance of a large one's logits.

    loss = ce_weight CE(student, labels) + alpha temperature^2 KL(teacher || student) of z = (logits - mean) / deviation

    Mean and deviation are over the classes of a sample, the deviation being the unbiased one, as in the authors' code;
    so are temperature 2, alpha 9 and a weight of 0.1 for the labels (1 on ImageNet).

    The largest standardised logit of K classes is (K - 1) / sqrt(K), however sure a network is: 9.9 for 100 classes and
    2.8 for 10. The odds of its class are exp(sqrt(K) / temperature) / (K - 1), 1.5 for 100 classes at temperature 2.
    Fewer classes leave nearly uniform targets at that temperature; sqrt(K) / log(1.5 (K - 1)) keeps the odds: 1.2 for
    10 classes.
    """

    name, family = "lskd", "logit"
    paper = Paper(
        title="Logit Standardization in Knowledge Distillation",
        authors=("Shangquan Sun", "Wenqi Ren", "Jingzhi Li", "Rui Wang", "Xiaochun Cao"),
        year=2024, venue="CVPR", arxiv="2403.01427",
    )
    ranges = {"temperature": (1.0, 8.0), "alpha": (0.0, 20.0), "ce_weight": (0.0, 1.0)}
    unlabelled = "alone"

    def __init__(self, ctx, *, temperature: float = 2.0, alpha: float = 9.0, ce_weight: float = 0.1):
        super().__init__(ctx)
        self.temperature, self.alpha, self.ce_weight = temperature, alpha, ce_weight

    def losses(self, batch, student, teacher):
        divergence = soft_cross_entropy(standardise(student.logits), standardise(teacher.logits), self.temperature)
        return {
            "ce": self.ce_weight * labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * divergence,
        }
