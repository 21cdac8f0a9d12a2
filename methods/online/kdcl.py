import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import soft_cross_entropy


class KDCL(Method):
    """Students train together, each on its own augmentation of the same images. Their logits are combined into those of
    a teacher that is better than each of them, and all learn from it.

    loss = sum_i CE(student_i, labels) + alpha temperature^2 KL(teacher || student_i)
    min_logit: teacher logit of class k = min_i (z_ik - z_i,label), which is 0 at the label
    naive: teacher logits = those of the student with the lowest cross-entropy on the image

    Temperature 2, alpha 1 (its lambda) and the choice of the teacher per image are the paper's; one peer, and
    `min_logit` as the default, are ours. It has two further teachers, not taken over: `linear` solves a convex problem
    in every step, `general` weights the students by their errors on held-out images, which no method here may see. The
    first student trains on the shared batch and is scored; the others get further augmentations of its images.
    """

    name, family = "kdcl", "online"
    conditions = ("peers",)
    learns_from = None
    paper = Paper(
        title="Online Knowledge Distillation via Collaborative Learning",
        authors=("Qiushan Guo", "Xinjiang Wang", "Yichao Wu", "Zhipeng Yu", "Ding Liang", "Xiaolin Hu", "Ping Luo"),
        year=2020, venue="CVPR",
    )
    ranges = {"peers": (1, 4), "temperature": (1.0, 20.0), "alpha": (0.0, 10.0), "ensemble": ("min_logit", "naive")}

    def __init__(self, ctx, *, peers: int = 1, temperature: float = 2.0, alpha: float = 1.0,
                 ensemble: str = "min_logit"):
        super().__init__(ctx)
        self.temperature, self.alpha = temperature, alpha
        self.ensemble = {"min_logit": min_logit, "naive": naive}[ensemble]
        self.peers = nn.ModuleList(ctx.new_student() for _ in range(peers))

    def losses(self, batch, student, teacher):
        views = [self.ctx.sample(batch.positions).images for _ in self.peers]
        others = [peer(view).logits for peer, view in zip(self.peers, views, strict=True)]
        target = self.ensemble(torch.stack([student.logits, *others]).detach(), batch.labels)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, target, self.temperature),
            "peer_ce": sum(F.cross_entropy(logits, batch.labels) for logits in others),
            "peer_kd": self.alpha * sum(soft_cross_entropy(logits, target, self.temperature) for logits in others),
        }


def min_logit(logits, labels):  # [M, B, K], [B] -> [B, K]
    """Each class's logit minus the label's, at its lowest over the M students."""
    target = logits.gather(2, labels[None, :, None].expand(len(logits), -1, 1))
    return (logits - target).amin(0)


def naive(logits, labels):  # [M, B, K], [B] -> [B, K]
    """For each image the logits of the student with the lowest cross-entropy on it."""
    errors = torch.stack([F.cross_entropy(student, labels, reduction="none") for student in logits])
    return logits[errors.argmin(0), torch.arange(len(labels), device=labels.device)]
