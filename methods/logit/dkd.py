import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import non_target, soft_cross_entropy


def dkd_loss(student_logits, teacher_logits, labels, alpha, beta, temperature):
    """alpha x target-class + beta x non-target-class term, times temperature^2. Logits [B, K], labels [B]."""
    student, teacher = student_logits / temperature, teacher_logits / temperature
    target_class = soft_cross_entropy(target_or_not(student, labels), target_or_not(teacher, labels), 1.0)
    other_classes = soft_cross_entropy(non_target(student, labels), non_target(teacher, labels), 1.0)
    return temperature**2 * (alpha * target_class + beta * other_classes)


def target_or_not(logits, labels):
    """Logits [B, 2] of the label's class and of any other class, from logits [B, K] and labels [B]."""
    return torch.cat([logits.gather(1, labels[:, None]), non_target(logits, labels).logsumexp(1, keepdim=True)], dim=1)


class DKD(Method):
    """KD's divergence, split into a term on the probability of the target class and one on the distribution over the
    others. In KD the second is weighted by 1 - the teacher's probability of the target; here both have weights of their
    own.

    loss = CE(student, labels) + warm-up temperature^2 [alpha KL(b^T || b^S) + beta KL(r^T || r^S)]

    b = (p_target, 1 - p_target), r = the probabilities of the other classes, renormalised; the weight rises linearly
    over the first twelfth of the run (20 of 240 epochs). The paper tunes beta for each pair (0.5 to 8 in the authors'
    code, larger for more confident teachers); 8 is their code's default.
    """

    name, family = "dkd", "logit"
    paper = Paper(
        title="Decoupled Knowledge Distillation",
        authors=("Borui Zhao", "Quan Cui", "Renjie Song", "Yiyu Qiu", "Jiajun Liang"),
        year=2022, venue="CVPR", arxiv="2203.08679",
    )
    ranges = {"alpha": (0.0, 4.0), "beta": (0.0, 10.0), "temperature": (1.0, 20.0), "warmup": (0.0, 0.5)}

    def __init__(self, ctx, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, warmup: float = 0.0833):
        super().__init__(ctx)
        self.alpha, self.beta, self.temperature, self.warmup = alpha, beta, temperature, warmup

    def losses(self, batch, student, teacher):
        weight = min(1.0, self.progress / self.warmup) if self.warmup else 1.0
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "dkd": weight * dkd_loss(student.logits, teacher.logits, batch.labels, self.alpha, self.beta,
                                     self.temperature),
        }
