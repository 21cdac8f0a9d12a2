import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import zipf_cross_entropy


def target_loss(logits, labels):
    """-p log s, averaged over the batch: s is the probability of a sample's label, p = 1 + s^2 - the batch's mean of
    s^2, without a gradient. Logits [B, K], labels [B]."""
    log_target = F.log_softmax(logits, dim=1).gather(1, labels[:, None])
    squares = (2 * log_target.detach()).exp()
    return -((1 + squares - squares.mean()) * log_target).mean()


def confidence(logits, labels):
    """The class probabilities [B, K], divided by the sum of those of all classes but the label's."""
    probabilities = F.softmax(logits, dim=1)
    return probabilities / (1 - probabilities.gather(1, labels[:, None])).clamp_min(1e-6)


class USKD(Method):
    """Soft labels of the student's own, for the label's class and for the others. The first is 1, shifted by how sure
    the student is beside the rest of the batch; the others follow Zipf's law (one over the rank), and are ranked by
    what a middle stage and the student together think of them.

    loss = CE(student, labels) - alpha p log s_label - beta sum_{k != label} z_k log r_k
           + mu CE(weak, smoothed labels),  p = 1 + s_label^2 - mean(s_label^2),  z_k ~ 1 / rank_k

    r are the probabilities of the other classes, renormalised; `weak` is a linear layer on the mean of the stage before
    the last, and 0.1 of its labels is spread over all classes. The ranks are those of w_k / (1 - w_label) +
    s_k / (1 - s_label), the probabilities of `weak` and student. The authors' code has the logarithms of s in place of
    the second quotient, since the variable was overwritten before: we take the quotient, as it is written for w. Ranks
    count the label's class, as in the code. So are alpha, beta and mu, 0.1 each for ResNet-18 on CIFAR-100; on ImageNet
    they are 1, 0.1 and 0.005.
    """

    name, family = "uskd", "self"
    paper = Paper(
        title="From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and "
              "Customized Soft Labels",
        authors=("Zhendong Yang", "Ailing Zeng", "Zhe Li", "Tianke Zhang", "Chun Yuan", "Yu Li"),
        year=2023, venue="ICCV", arxiv="2303.13005",
    )
    ranges = {"alpha": (0.0, 4.0), "beta": (0.0, 4.0), "mu": (0.0, 1.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 0.1, beta: float = 0.1, mu: float = 0.1):
        super().__init__(ctx)
        self.alpha, self.beta, self.mu = alpha, beta, mu
        self.weak = nn.Linear(ctx.student_shapes.stages[-2][0], ctx.num_classes)

    @classmethod
    def inapplicable(cls, student, teacher):
        return None if len(student.stages) > 1 else "the student has no stage before its deepest one"

    def losses(self, batch, student, teacher):
        labels, weak = batch.labels, self.weak(student.stages[-2].mean((2, 3)))
        scores = confidence(weak, labels) + confidence(student.logits, labels)
        return {
            "ce": F.cross_entropy(student.logits, labels),
            "target": self.alpha * target_loss(student.logits, labels),
            "others": self.beta * zipf_cross_entropy(student.logits, labels, scores),
            "weak": self.mu * F.cross_entropy(weak, labels, label_smoothing=0.1),
        }
