import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper


def virtual_teacher(labels, num_classes, correct, temperature):
    """Probabilities [B, K] from labels [B]: the softmax, at `temperature`, of logits that are `correct` for the label's
    class and (1 - correct) / (K - 1) for the others."""
    hard = torch.full((len(labels), num_classes), (1 - correct) / (num_classes - 1), device=labels.device)
    hard.scatter_(1, labels[:, None], correct)
    return F.softmax(hard / temperature, dim=1)


class TfKD(Method):
    """Distillation from a virtual teacher: a fixed distribution that always prefers the label's class and, softened, is
    nearly uniform. This is the paper's Tf-KD_reg, "teacher-free" regularisation without a trained network.

    loss = (1 - alpha) CE(student, labels) + alpha KL(virtual teacher || student)

    The virtual teacher is softmax(d / temperature), d = correct on the label and (1 - correct) / (K - 1) elsewhere.
    In the paper the temperature softens teacher and student; the authors' code softens the teacher alone, taking d for
    its logits. Taken from the code, as are correct = 0.99 and, for ResNet-18 on CIFAR-100, alpha = 0.1, temperature =
    20 (experiments/base_experiments/base_resnet18/params.json; alpha to 0.95 and temperature 10 to 40 for others). The
    code averages over the classes too and multiplies by 100, which is their number there: here it is the sum.
    """

    name, family = "tf_kd", "self"
    paper = Paper(
        title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
        authors=("Li Yuan", "Francis E. H. Tay", "Guilin Li", "Tao Wang", "Jiashi Feng"),
        year=2020, venue="CVPR", arxiv="1909.11723",
    )
    ranges = {"alpha": (0.0, 1.0), "temperature": (1.0, 40.0), "correct": (0.9, 1.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 0.1, temperature: float = 20.0, correct: float = 0.99):
        super().__init__(ctx)
        self.alpha, self.temperature, self.correct = alpha, temperature, correct

    def losses(self, batch, student, teacher):
        target = virtual_teacher(batch.labels, student.logits.shape[1], self.correct, self.temperature)
        return {
            "ce": (1 - self.alpha) * F.cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * F.kl_div(F.log_softmax(student.logits, dim=1), target, reduction="batchmean"),
        }
