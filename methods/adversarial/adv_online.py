import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper, descend
from kdbench.parts.losses import soft_cross_entropy


class AdversarialOnline(Method):
    """Two students teach each other their softened class probabilities, as in mutual learning, and the distribution of
    their last feature maps. For the latter each has a discriminator that learns to score the peer's maps as real and
    its own student's as fake, and the student learns to fool it.

    student 1:       CE(student_1, labels) + alpha temperature^2 KL(student_2 || student_1)
                     + adversarial (1 - D_1(F_1))^2
    discriminator 1: (1 - D_1(F_2))^2 + D_1(F_1)^2,  and the same with 1 and 2 exchanged

    As in the paper the discriminators are three convolutions with BatchNorm and LeakyReLU and a sigmoid, here one
    score per position, trained by Adam at 2e-5. The paper makes two updates of each student, the adversarial one at a
    lower rate; here it is one update, and `adversarial` is the lower rate. The authors gave no code: `adversarial` 0.1
    and the width 64 are ours, alpha 1 and temperature 3 are as in ONE (Lan et al., 2018).
    Both students are of one architecture, so no layer is needed between their maps; the student is scored, never its
    peer.
    """

    name, family = "adv_online", "adversarial"
    conditions = ("GAN", "peers")
    learns_from = None
    paper = Paper(
        title="Feature-map-level Online Adversarial Knowledge Distillation",
        authors=("Inseop Chung", "SeongUk Park", "Jangho Kim", "Nojun Kwak"),
        year=2020, venue="ICML", arxiv="2002.01775",
    )
    ranges = {"alpha": (0.0, 10.0), "temperature": (1.0, 20.0), "adversarial": (0.0, 10.0),
              "discriminator_lr": (1e-6, 1e-1), "hidden": (1, 1024)}

    def __init__(self, ctx, *, alpha: float = 1.0, temperature: float = 3.0, adversarial: float = 0.1,
                 discriminator_lr: float = 2e-5, hidden: int = 64):
        super().__init__(ctx)
        self.alpha, self.temperature, self.adversarial = alpha, temperature, adversarial
        self.discriminator_lr = discriminator_lr
        self.peer = ctx.new_student()
        channels = ctx.student_shapes.stages[-1][0]
        self.discriminators = nn.ModuleList(discriminator(channels, hidden) for _ in range(2))

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()), "peer": make(self.peer.parameters()),
            "discriminators": torch.optim.Adam(self.discriminators.parameters(), lr=self.discriminator_lr),
        }

    def step(self, batch, optimizers):
        student, peer = self.student(batch.images), self.peer(batch.images)
        maps = student.stages[-1], peer.stages[-1]
        mine, other = self.discriminators
        discriminators = discriminator_loss(mine, *maps) + discriminator_loss(other, *maps[::-1])
        descend(optimizers["discriminators"], discriminators)
        self.discriminators.requires_grad_(False)  # the gradient passes through them, to the students alone
        terms = {
            **self.student_terms("", student, peer, mine, batch.labels),
            **self.student_terms("peer_", peer, student, other, batch.labels),
        }
        descend([optimizers["main"], optimizers["peer"]], sum(terms.values()))
        self.discriminators.requires_grad_(True)
        return {**terms, "discriminators": discriminators}

    def student_terms(self, prefix, student, peer, critic, labels):
        """The loss terms of one student: its outputs, its peer's, and the student's own discriminator."""
        mutual = soft_cross_entropy(student.logits, peer.logits.detach(), self.temperature)
        return {
            f"{prefix}ce": F.cross_entropy(student.logits, labels),
            f"{prefix}mutual": self.alpha * mutual,
            f"{prefix}fool": self.adversarial * fooling_loss(critic, student.stages[-1], peer.stages[-1]),
        }


def discriminator_loss(critic, own, peers):  # maps [B, C, H, W]
    """The least-squares loss of a discriminator, for which the peer's maps are real and its own student's are fake."""
    of_own, of_peers = scores(critic, own.detach(), peers)
    return (1 - of_peers).pow(2).mean() + of_own.pow(2).mean()


def fooling_loss(critic, own, peers):  # maps [B, C, H, W]
    """The least-squares loss of a student, whose maps its discriminator should take for the peer's."""
    of_own, _ = scores(critic, own, peers)
    return (1 - of_own).pow(2).mean()


def scores(critic, own, peers):  # maps [B, C, H, W] -> [B, 1, H, W] twice
    """The discriminator's scores of both, given as one batch: BatchNorm would hide how two batches differ."""
    return critic(torch.cat([own, peers.detach()])).chunk(2)


def discriminator(channels, hidden):
    """A network from maps [B, C, H, W] to the probability [B, 1, H, W] that they are the peer's, at each position."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(hidden, 1, 3, padding=1), nn.Sigmoid(),
    )
