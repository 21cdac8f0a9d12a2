from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy


class BAN(Method):
    """A born-again network: the student learns from the labels and from a trained copy of itself, which has the same
    architecture, another initialisation and plain training. What the copy adds are soft targets.

    loss = CE(student, labels) + alpha KL(copy || student)

    At temperature 1, as in the paper. Its "dual goals" of labels and teacher are taken, with equal weights; it also
    reports training on the teacher alone. There is one generation; the paper has further ones, and their ensemble. The
    copy is a whole run of plain training with the recipe and seed of the student's teachers, shared by all seeds. It
    lies outside the budget and the cost of this run: a network that must be trained from nothing costs twice what is
    shown ("2 runs").
    """

    name, family = "ban", "self"
    paper = Paper(
        title="Born Again Neural Networks",
        authors=("Tommaso Furlanello", "Zachary C. Lipton", "Michael Tschannen", "Laurent Itti", "Anima Anandkumar"),
        year=2018, venue="ICML", arxiv="1805.04770",
    )
    ranges = {"alpha": (0.0, 4.0)}
    unlabelled = "alone"
    learns_from = "student"
    conditions = ("2 runs",)

    def __init__(self, ctx, *, alpha: float = 1.0):
        super().__init__(ctx)
        self.alpha = alpha

    def losses(self, batch, student, teacher):
        return {
            "ce": labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, teacher.logits, temperature=1.0),
        }
