import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import soft_cross_entropy


class CSKD(Method):
    """The student's softened prediction for an image follows its own prediction for another image of the same class.
    This makes the predictions within a class consistent and keeps the student from overconfidence on single images.

    loss = CE(student(x), labels) + alpha temperature^2 KL(student(x') || student(x))

    x' is drawn anew for each x from all training images of its class, x itself included; no gradient flows into its
    prediction. alpha 1 and temperature 4 are the paper's for CIFAR-100. As in the authors' code x' passes through the
    student in training mode, in a batch of its own: the student sees twice the images of other methods.
    """

    name, family = "cs_kd", "self"
    paper = Paper(
        title="Regularizing Class-wise Predictions via Self-knowledge Distillation",
        authors=("Sukmin Yun", "Jongjin Park", "Kimin Lee", "Jinwoo Shin"),
        year=2020, venue="CVPR", arxiv="2003.13964",
    )
    ranges = {"alpha": (0.0, 4.0), "temperature": (1.0, 10.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 1.0, temperature: float = 4.0):
        super().__init__(ctx)
        self.alpha, self.temperature = alpha, temperature
        sizes = ctx.train_labels.bincount(minlength=ctx.num_classes)
        self.register_buffer("by_class", ctx.train_labels.argsort(stable=True), persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)

    def partners(self, labels):
        """For each label [B] the position of a random training image of that class."""
        draw = torch.rand(len(labels), dtype=torch.float64).to(labels.device)  # float32 could round up to 1 x size
        return self.by_class[self.starts[labels] + (draw * self.sizes[labels]).long()]

    def losses(self, batch, student, teacher):
        with torch.no_grad():
            partner = self.student(self.ctx.sample(self.partners(batch.labels)).images)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, partner.logits, self.temperature),
        }
