import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy


def dist_loss(student_logits, teacher_logits, inter, intra, temperature):
    """temperature^2 x the weighted Pearson distances between the two networks' probabilities [B, K]: of rows (a
    sample's classes), with weight `inter`, and of columns (a class's samples), with weight `intra`."""
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    rows, columns = pearson_distance(student, teacher), pearson_distance(student.T, teacher.T)
    return temperature**2 * (inter * rows + intra * columns)


def pearson_distance(a, b):
    """1 - Pearson's correlation of corresponding rows of two matrices [N, M], averaged over the rows."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


class DIST(Method):
    """The student's probabilities are made to correlate with the teacher's instead of being equal to them: over the
    classes of each sample and over the samples of each class. A student can follow these relations even where the
    teacher is much stronger.

    loss = CE(student, labels) + temperature^2 [inter d(rows) + intra d(columns)],  d = 1 - Pearson correlation

    Weights 2 and temperature 4 are the paper's for CIFAR-100 (its temperature for ImageNet is 1). The squared
    temperature is the authors' code's.
    """

    name, family = "dist", "logit"
    paper = Paper(
        title="Knowledge Distillation from A Stronger Teacher",
        authors=("Tao Huang", "Shan You", "Fei Wang", "Chen Qian", "Chang Xu"),
        year=2022, venue="NeurIPS", arxiv="2205.10536",
    )
    ranges = {"inter": (0.0, 10.0), "intra": (0.0, 10.0), "temperature": (1.0, 8.0)}
    unlabelled = "alone"

    def __init__(self, ctx, *, inter: float = 2.0, intra: float = 2.0, temperature: float = 4.0):
        super().__init__(ctx)
        self.inter, self.intra, self.temperature = inter, intra, temperature

    def losses(self, batch, student, teacher):
        return {
            "ce": labelled_cross_entropy(student.logits, batch.labels),
            "dist": dist_loss(student.logits, teacher.logits, self.inter, self.intra, self.temperature),
        }
