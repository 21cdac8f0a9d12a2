from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy


class KD(Method):
    """The student matches the teacher's softened class probabilities.

    loss = (1 - alpha) CE(student, labels) + alpha temperature^2 KL(teacher || student)

    The paper gives no single temperature and no weights for images; temperature 4 and alpha 0.9 are the values that
    later work settled on (Zagoruyko & Komodakis, 2017; Tian et al., 2020).
    """

    name, family = "kd", "logit"
    paper = Paper(
        title="Distilling the Knowledge in a Neural Network",
        authors=("Geoffrey Hinton", "Oriol Vinyals", "Jeff Dean"),
        year=2015, venue="NIPS Deep Learning and Representation Learning Workshop", arxiv="1503.02531",
    )
    ranges = {"temperature": (1.0, 20.0), "alpha": (0.0, 1.0)}
    unlabelled = "alone"

    def __init__(self, ctx, *, temperature: float = 4.0, alpha: float = 0.9):
        super().__init__(ctx)
        self.temperature, self.alpha = temperature, alpha

    def losses(self, batch, student, teacher):
        return {
            "ce": (1 - self.alpha) * labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, teacher.logits, self.temperature),
        }
