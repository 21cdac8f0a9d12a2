import copy

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.networks import freeze
from kdbench.parts.losses import soft_cross_entropy
from kdbench.parts.statistics import batch_statistics


class Codistillation(Method):
    """Two students train separately, each on batches of its own, and exchange checkpoints at intervals. After a burn-in
    each also learns from the predictions of the other's latest checkpoint, which may be stale.

    loss_i = CE(student_i, labels) + alpha CE(stale student_j, student_i), the second term after the burn-in

    Unlike in mutual learning, no student sees the other's current weights, nor the other's batches. The term is logged
    as the divergence KL(stale student_j || student_i), which has the same gradient. Weight 1 and no temperature are the
    paper's, which gives burn-in and exchange interval in steps of its clusters' long runs; the shares of the run are
    ours. The checkpoints normalise by the statistics of the batch, as their students do in training: running statistics
    lag behind the weights while the rate is high. The paper prefers disjoint data for its groups; these splits are too
    small to be halved, so each student draws from all of it. The first student trains on the shared batches and is
    scored.
    """

    name, family = "codistillation", "online"
    conditions = ("peers",)
    learns_from = None
    paper = Paper(
        title="Large Scale Distributed Neural Network Training Through Online Distillation",
        authors=("Rohan Anil", "Gabriel Pereyra", "Alexandre Passos", "Robert Ormandi", "George E. Dahl",
                 "Geoffrey E. Hinton"),
        year=2018, venue="ICLR", arxiv="1804.03235",
    )
    ranges = {"alpha": (0.0, 10.0), "burn_in": (0.0, 0.9), "exchange": (0.001, 0.5)}

    def __init__(self, ctx, *, alpha: float = 1.0, burn_in: float = 0.3, exchange: float = 0.01):
        super().__init__(ctx)
        self.alpha, self.burn_in, self.interval = alpha, burn_in, max(1, round(exchange * ctx.steps))
        self.peer = ctx.new_student()
        self.checkpoints = nn.ModuleDict({"student": freeze(copy.deepcopy(self.student)),
                                          "peer": freeze(copy.deepcopy(self.peer))})

    def train(self, mode=True):
        super().train(mode)
        self.checkpoints.eval()
        return self

    def optimizers(self, make):
        return {"main": make([*self.student.parameters(), *self.peer.parameters()])}

    def step(self, batch, optimizers):
        if self.step_index % self.interval == 0:
            self.exchange()
        return super().step(batch, optimizers)

    def losses(self, batch, student, teacher):
        elsewhere = self.ctx.sample(torch.randint(self.ctx.num_train, batch.positions.shape))
        return {
            **self.student_terms("", batch, student, self.checkpoints["peer"]),
            **self.student_terms("peer_", elsewhere, self.peer(elsewhere.images), self.checkpoints["student"]),
        }

    def exchange(self):
        """Copy both students, as they are now, to their checkpoints."""
        self.checkpoints["student"].load_state_dict(self.student.state_dict())
        self.checkpoints["peer"].load_state_dict(self.peer.state_dict())

    def student_terms(self, prefix, batch, own, other):
        """The loss terms of one student: its outputs on its batch, and the checkpoint of the other student."""
        terms = {f"{prefix}ce": F.cross_entropy(own.logits, batch.labels)}
        if self.progress >= self.burn_in:
            with batch_statistics(other):
                stale = other(batch.images).logits
            terms[f"{prefix}kd"] = self.alpha * soft_cross_entropy(own.logits, stale, temperature=1.0)
        return terms
