import torch.nn.functional as F

from kdbench.method import Method, Paper


def weighted_soft_loss(student_logits, teacher_logits, labels, temperature):
    """temperature^2 x the cross-entropy with the teacher's softened probabilities, each sample weighted by 1 - exp(-r):
    r is the student's cross-entropy with the label over the teacher's. Logits [B, K], labels [B]."""
    soft = F.cross_entropy(student_logits / temperature, F.softmax(teacher_logits / temperature, dim=1),
                           reduction="none")
    student = F.cross_entropy(student_logits.detach(), labels, reduction="none")
    teacher = F.cross_entropy(teacher_logits, labels, reduction="none")
    weights = 1 - (-student / (teacher + 1e-7)).exp()
    return temperature**2 * (weights * soft).mean()


class WSLD(Method):
    """KD whose soft labels count less for the samples on which the student does better than the teacher. There they
    regularise: they lower the variance and raise the bias.

    loss = CE(student, labels) + alpha temperature^2 mean_i [(1 - exp(-L_S / L_T)) CE(teacher, student; temperature)]

    L_S and L_T are a sample's cross-entropies with the label at temperature 1; the weight has no gradient. Temperature
    4 and alpha 2.25 are the paper's for CIFAR-100; the authors' code, for ImageNet, has 2 and 2.5. The soft term is a
    cross-entropy, as in the code: with weights below 1 for each sample it differs from a divergence by the weighted
    entropy of the teacher, which has no gradient.
    """

    name, family = "wsld", "logit"
    paper = Paper(
        title="Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
        authors=("Helong Zhou", "Liangchen Song", "Jiajie Chen", "Ye Zhou", "Guoli Wang", "Junsong Yuan", "Qian Zhang"),
        year=2021, venue="ICLR", arxiv="2102.00650",
    )
    ranges = {"temperature": (1.0, 20.0), "alpha": (0.0, 10.0)}

    def __init__(self, ctx, *, temperature: float = 4.0, alpha: float = 2.25):
        super().__init__(ctx)
        self.temperature, self.alpha = temperature, alpha

    def losses(self, batch, student, teacher):
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "wsld": self.alpha * weighted_soft_loss(student.logits, teacher.logits, batch.labels, self.temperature),
        }
