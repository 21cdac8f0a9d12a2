import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import soft_cross_entropy


def weighted_mse(student_logits, teacher_logits, weights):
    """1/4 sum_{j, k} w_j w_k (d_j - d_k)^2 of d = teacher - student, averaged over the batch. All [B, K]; the weights
    of a sample sum to 1, so this is half the weighted variance of d over the classes."""
    difference = teacher_logits - student_logits
    mean = (weights * difference).sum(dim=1, keepdim=True)
    return 0.5 * (weights * (difference - mean).square()).sum(dim=1).mean()


class DKL(Method):
    """KL has the gradients of two terms: a weighted squared error of the logits' differences, which moves the teacher,
    and a cross-entropy with its probabilities, which moves the student. With a fixed teacher the first is lost. The
    improved divergence (IKL) lets it move the student too, with weights of a whole class rather than of one sample.

    loss = CE(student, labels)
         + warm-up [beta / 4 sum_{j, k} w_j w_k (d_j - d_k)^2 + alpha KL(teacher || student; temperature)]

    d = teacher - student logits, w = the teacher's mean probabilities, at `weight_temperature`, over the training
    images of the sample's class: over those seen so far, starting as uniform; the authors' code takes the epoch before.
    Weights and temperatures are its configuration for CIFAR-100 (beta 4 to 12 by pair; ImageNet: 0.5, at weight
    temperature 1). Weights at temperature 100 are nearly uniform; in that configuration the code takes the sample's
    own, which are hardly others. There is no squared temperature; the warm-up is the first twelfth of the run (20 of
    240 epochs).

    With weights near 1 / K the gradient of a class's logit goes as beta / K for K classes: for others than 100 take
    beta = 8 K / 100.
    """

    name, family = "dkl", "logit"
    paper = Paper(
        title="Decoupled Kullback-Leibler Divergence Loss",
        authors=("Jiequan Cui", "Zhuotao Tian", "Zhisheng Zhong", "Xiaojuan Qi", "Bei Yu", "Hanwang Zhang"),
        year=2024, venue="NeurIPS", arxiv="2305.13948",
    )
    ranges = {"alpha": (0.0, 20.0), "beta": (0.0, 20.0), "temperature": (1.0, 20.0),
              "weight_temperature": (1.0, 100.0), "warmup": (0.0, 0.5)}

    def __init__(self, ctx, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0,
                 weight_temperature: float = 100.0, warmup: float = 0.0833):
        super().__init__(ctx)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.weight_temperature, self.warmup = weight_temperature, warmup
        self.register_buffer("sums", torch.full((ctx.num_classes, ctx.num_classes), 1 / ctx.num_classes))

    def losses(self, batch, student, teacher):
        weights = (self.sums / self.sums.sum(dim=1, keepdim=True))[batch.labels]
        one_hot = F.one_hot(batch.labels, self.ctx.num_classes).to(self.sums)
        self.sums += one_hot.T @ F.softmax(teacher.logits / self.weight_temperature, dim=1).to(self.sums)
        share = min(1.0, self.progress / self.warmup) if self.warmup else 1.0
        divergence = soft_cross_entropy(student.logits, teacher.logits, self.temperature) / self.temperature**2
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "wmse": share * self.beta * weighted_mse(student.logits, teacher.logits, weights),
            "kd": share * self.alpha * divergence,
        }
