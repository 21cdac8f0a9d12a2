import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy


class MSELogits(Method):
    """The student regresses the teacher's logits. Ba and Caruana (2014, arXiv 1312.6184) trained shallow networks this
    way; KD tends to it as the temperature grows.

    loss = (1 - alpha) CE(student, labels) + alpha mean_k (student_k - teacher_k)^2

    As in Kim et al. the labels are left out (alpha 1). Their equation sums the squares over the classes, their code
    averages: taken from the code, which keeps the step size independent of the number of classes.
    """

    name, family = "mse_logits", "logit"
    paper = Paper(
        title="Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation",
        authors=("Taehyeon Kim", "Jaehoon Oh", "Nak Yil Kim", "Sangwook Cho", "Se-Young Yun"),
        year=2021, venue="IJCAI", arxiv="2105.08919", doi="10.24963/ijcai.2021/362",
    )
    ranges = {"alpha": (0.0, 1.0)}
    unlabelled = "alone"
    conditions = ("no labels",)

    def __init__(self, ctx, *, alpha: float = 1.0):
        super().__init__(ctx)
        self.alpha = alpha

    def losses(self, batch, student, teacher):
        return {
            "ce": (1 - self.alpha) * labelled_cross_entropy(student.logits, batch.labels),
            "mse": self.alpha * F.mse_loss(student.logits, teacher.logits),
        }
