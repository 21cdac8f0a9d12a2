import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper, descend
from kdbench.parts.losses import soft_cross_entropy
from kdbench.parts.statistics import batch_statistics


class DML(Method):
    """Students that start from different weights learn together: each matches the labels and, on average, the class
    probabilities of the others. No trained teacher is needed.

    loss_i = CE(student_i, labels) + 1 / (K - 1) sum_{j != i} KL(student_j || student_i), for each of K students

    The students take turns, as in the paper's Algorithm 1: each learns from what the others predict after their latest
    step. (The authors' released code also gives each turn a batch of its own; here a step is one batch, as for all
    methods.) What a student predicts after its step is a second pass over the batch, which BatchNorm does not record.
    One peer, as in most of the paper's experiments. The scored student is the first; the paper reports each, or their
    mean.
    """

    name, family = "dml", "online"
    conditions = ("peers",)
    learns_from = None
    paper = Paper(
        title="Deep Mutual Learning",
        authors=("Ying Zhang", "Tao Xiang", "Timothy M. Hospedales", "Huchuan Lu"),
        year=2018, venue="CVPR", arxiv="1706.00384",
    )
    ranges = {"peers": (1, 4)}

    def __init__(self, ctx, *, peers: int = 1):
        super().__init__(ctx)
        self.peers = nn.ModuleList(ctx.new_student() for _ in range(peers))

    def optimizers(self, make):
        peers = {f"peer{i}": make(peer.parameters()) for i, peer in enumerate(self.peers, start=1)}
        return {"main": make(self.student.parameters()), **peers}

    def step(self, batch, optimizers):
        cohort = [self.student, *self.peers]
        logits = [network(batch.images).logits for network in cohort]
        terms = {}
        for i, (network, (name, optimizer)) in enumerate(zip(cohort, optimizers.items(), strict=True)):
            prefix = "" if i == 0 else f"{name}_"
            others = [other.detach() for other in logits[:i] + logits[i + 1:]]
            mine = {
                f"{prefix}ce": F.cross_entropy(logits[i], batch.labels),
                f"{prefix}mutual": mutual_loss(logits[i], others),
            }
            descend(optimizer, sum(mine.values()))
            terms |= mine
            if i + 1 < len(cohort):  # whoever is next learns from the student that has just stepped
                with torch.no_grad(), batch_statistics(network):
                    logits[i] = network(batch.images).logits
        return terms


def mutual_loss(logits, others):  # [B, K], each [B, K]
    """KL(other || this student), averaged over the batch and over the other students' logits."""
    return sum(soft_cross_entropy(logits, other, temperature=1.0) for other in others) / len(others)
