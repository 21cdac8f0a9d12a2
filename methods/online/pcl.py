import copy

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.networks import freeze
from kdbench.parts.losses import ramp, soft_cross_entropy
from kdbench.parts.statistics import batch_statistics


class PCL(Method):
    """Peers train together, each on its own augmentation of the same images. Each learns from an ensemble, a classifier
    on the features of all, and from the temporal means of the others, which are steadier than they are.

    loss = sum_i CE(peer_i, labels) + CE(ensemble, labels)
         + alpha ramp(progress) temperature^2 sum_i (KL(ensemble || peer_i) + mean_{j != i} KL(mean_j || peer_i))

    mean_j has the weights of peer j averaged over the steps, w <- m w + (1 - m) w_j with m = min(1 - 1 / step,
    momentum), as in Tarvainen & Valpola (2017), and sees the images of peer j. Ensemble and means are constants in the
    divergences. Three peers (the student is one), temperature 3, momentum 0.999 and the ramp (as in ONE, over 80 of 300
    epochs) are the paper's, as a public reproduction has them; no code of the authors is known. Its peers are branches
    on shared lower layers; here they are networks, which any architecture can be. The means normalise by the statistics
    of the batch, as students do in training. The student is scored, not its temporal mean.
    """

    name, family = "pcl", "online"
    conditions = ("peers",)
    learns_from = None
    paper = Paper(
        title="Peer Collaborative Learning for Online Knowledge Distillation",
        authors=("Guile Wu", "Shaogang Gong"),
        year=2021, venue="AAAI", arxiv="2006.04147",
    )
    ranges = {"peers": (1, 4), "temperature": (1.0, 20.0), "alpha": (0.0, 10.0), "rampup": (0.01, 1.0),
              "momentum": (0.0, 0.9999)}

    def __init__(self, ctx, *, peers: int = 2, temperature: float = 3.0, alpha: float = 1.0, rampup: float = 0.27,
                 momentum: float = 0.999):
        super().__init__(ctx)
        self.temperature, self.alpha, self.rampup, self.momentum = temperature, alpha, rampup, momentum
        self.peers = nn.ModuleList(ctx.new_student() for _ in range(peers))
        self.means = nn.ModuleList(freeze(copy.deepcopy(network)) for network in [self.student, *self.peers])
        self.classifier = nn.Linear((1 + peers) * ctx.student_shapes.embedding, ctx.num_classes)

    def train(self, mode=True):
        super().train(mode)
        self.means.eval()
        return self

    def optimizers(self, make):
        return {"main": make([*self.student.parameters(), *self.peers.parameters(), *self.classifier.parameters()])}

    def step(self, batch, optimizers):
        terms = super().step(batch, optimizers)
        momentum = min(1 - 1 / (self.step_index + 1), self.momentum)
        for mean, network in zip(self.means, [self.student, *self.peers], strict=True):
            follow(mean, network, momentum)
        return terms

    def losses(self, batch, student, teacher):
        images = [batch.images, *(self.ctx.sample(batch.positions).images for _ in self.peers)]
        outputs = [student, *(peer(view) for peer, view in zip(self.peers, images[1:], strict=True))]
        ensemble = self.classifier(torch.cat([output.embedding for output in outputs], dim=1))
        means = [steady_logits(mean, view) for mean, view in zip(self.means, images, strict=True)]
        alpha = self.alpha * ramp(self.progress / self.rampup)
        ce = [F.cross_entropy(output.logits, batch.labels) for output in outputs]
        kd = [alpha * self.divergence(output.logits, ensemble.detach(), means[:i] + means[i + 1:])
              for i, output in enumerate(outputs)]
        return {
            "ce": ce[0], "kd": kd[0], "peer_ce": sum(ce[1:]), "peer_kd": sum(kd[1:]),
            "ensemble_ce": F.cross_entropy(ensemble, batch.labels),
        }

    def divergence(self, logits, ensemble, others):  # [B, K] twice, each [B, K]
        """What one peer learns from the ensemble and, on average, from the means of the others."""
        from_means = sum(soft_cross_entropy(logits, other, self.temperature) for other in others) / len(others)
        return soft_cross_entropy(logits, ensemble, self.temperature) + from_means


@torch.no_grad()
def steady_logits(mean, images):
    """The logits [B, K] of a temporal mean on images [B, C, H, W]."""
    with batch_statistics(mean):
        return mean(images).logits


@torch.no_grad()
def follow(mean, network, momentum):
    """Move the weights of the temporal mean towards the network's."""
    for average, latest in zip(mean.parameters(), network.parameters(), strict=True):
        average.mul_(momentum).add_(latest, alpha=1 - momentum)
