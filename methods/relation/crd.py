import math

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper


class CRD(Method):
    """Contrastive learning between the networks: an image's embedding by the student and its embedding by the teacher
    are pulled together, and both are pushed away from the other network's embeddings of thousands of images of other
    classes.

    loss = CE(student, labels) + alpha (contrast(student, teacher's memory) + contrast(teacher, student's memory))
    contrast = -log h(own image) - sum_{K images of other classes} log(1 - h(other)), averaged over the batch, with
    h = P / (P + K / N), P = exp(u . v / temperature) / Z, u and v linear maps of the embeddings at unit length, and
    Z = N times the mean of exp(...) in the first batch.

    Each memory holds one embedding for every one of the N training images, moved half way to the latest one whenever
    the image is seen. Temperature 0.07 and alpha 0.8 are those of the authors' code. It draws negatives for each image
    of a batch; here a batch shares one draw, of which each image uses those of other classes: the same distribution at
    a fraction of the cost. Where the training split has no more than `negatives` images, that is all of them.

    The term tells an image from all others, and does not get easier with fewer classes as the cross-entropy does. The
    code's alpha was chosen for 100 classes; a rule of ours for K of them is 0.8 K / 100, at most 0.8.
    """

    name, family = "crd", "relation"
    paper = Paper(
        title="Contrastive Representation Distillation",
        authors=("Yonglong Tian", "Dilip Krishnan", "Phillip Isola"),
        year=2020, venue="ICLR", arxiv="1910.10699",
    )
    ranges = {"alpha": (0.0, 10.0), "temperature": (0.02, 1.0), "negatives": (1, 65536), "momentum": (0.0, 0.99),
              "width": (8, 1024)}

    def __init__(self, ctx, *, alpha: float = 0.8, temperature: float = 0.07, negatives: int = 16384,
                 momentum: float = 0.5, width: int = 128):
        super().__init__(ctx)
        self.alpha, self.temperature, self.negatives, self.momentum = alpha, temperature, negatives, momentum
        self.embed_student = nn.Linear(ctx.student_shapes.embedding, width)
        self.embed_teacher = nn.Linear(ctx.teacher_shapes.embedding, width)
        bound = (3 / width) ** 0.5  # random vectors of about unit length
        for side in ("student", "teacher"):
            self.register_buffer(f"{side}_memory", torch.empty(ctx.num_train, width).uniform_(-bound, bound))
            self.register_buffer(f"{side}_scale", torch.zeros(()))  # log Z

    def losses(self, batch, student, teacher):
        ours = F.normalize(self.embed_student(student.embedding), dim=1)
        theirs = F.normalize(self.embed_teacher(teacher.embedding), dim=1)
        drawn = torch.randperm(self.ctx.num_train, device=batch.positions.device)[:self.negatives]
        terms = {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "student": self.alpha * self.contrast(ours, self.teacher_memory, batch, drawn, self.student_scale),
            "teacher": self.alpha * self.contrast(theirs, self.student_memory, batch, drawn, self.teacher_scale),
        }
        self.remember(self.student_memory, batch.positions, ours)
        self.remember(self.teacher_memory, batch.positions, theirs)
        return terms

    def contrast(self, embedding, memory, batch, drawn, scale):  # [B, D], [N, D], Batch, [K], []
        """The contrastive loss of one network's embeddings, at unit length, against the other's memory: each image's
        own entry is the positive, the entries at `drawn` of other classes are the negatives; `scale` is log Z."""
        own = (embedding * memory[batch.positions]).sum(1) / self.temperature
        others = embedding @ memory[drawn].T / self.temperature
        if self.step_index == 0:  # the first batch of the run sets the scale for all
            scale.copy_(others.detach().exp().mean().log() + math.log(len(memory)))
        usable = (self.ctx.train_labels[drawn] != batch.labels[:, None]).to(others)
        return contrastive_loss(own - scale, others - scale, usable, len(memory))

    def remember(self, memory, positions, embedding):  # [N, D], [B], [B, D]
        """Move the memory's entries at `positions` towards the new embeddings, and scale them to unit length."""
        moved = self.momentum * memory[positions] + (1 - self.momentum) * embedding.detach()
        memory[positions] = F.normalize(moved, dim=1)


def contrastive_loss(own, others, usable, num_train):  # log P: [B], [B, K]; 1 for others that count, else 0: [B, K]
    """The noise-contrastive loss -log h(own) - sum log(1 - h(other)), averaged over the batch; the noise is a uniform
    choice among all `num_train` images."""
    log_noise = (usable.sum(1).clamp(min=1) / num_train).log()  # of K / N, for each image of the batch
    hits = F.logsigmoid(own - log_noise)  # log h
    rejections = F.logsigmoid(log_noise[:, None] - others) * usable  # log(1 - h)
    return -(hits + rejections.sum(1)).mean()
