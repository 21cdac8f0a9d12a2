import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import ramp, soft_cross_entropy


class OKDDip(Method):
    """Each of several peers learns from a mixture of all peers that is its own, with weights by attention, so that they
    do not all become alike. The student, their leader, learns from the mean of the peers.

    loss = sum_{peers and student} CE(z, labels)
         + alpha ramp(progress) temperature^2 (sum_i KL(target_i || peer_i) + KL(mean of peers || student))
    target_i = sum_j a_ij z_j,  a_i = softmax_j(Q e_i . K e_j), e_i the peer's embedding, Q and K linear maps

    Peers, temperature, ramp (as in ONE, over 80 of 300 epochs) and the width of Q and K, an eighth of the embedding's,
    are those of the authors' code. There, as here, targets are mixtures of logits, which the paper writes as mixtures
    of probabilities, and the gradient passes through them: nothing else trains Q and K. Paper and code have two forms,
    one where peers are branches on shared lower layers and one where they are networks; this is the second, which any
    architecture can have. Only the student is scored, as in the paper.
    """

    name, family = "okddip", "online"
    conditions = ("peers",)
    learns_from = None
    paper = Paper(
        title="Online Knowledge Distillation with Diverse Peers",
        authors=("Defang Chen", "Jian-Ping Mei", "Can Wang", "Yan Feng", "Chun Chen"),
        year=2020, venue="AAAI", arxiv="1912.00350",
    )
    ranges = {"peers": (2, 6), "temperature": (1.0, 20.0), "alpha": (0.0, 10.0), "rampup": (0.01, 1.0),
              "factor": (1, 16)}

    def __init__(self, ctx, *, peers: int = 3, temperature: float = 3.0, alpha: float = 1.0, rampup: float = 0.27,
                 factor: int = 8):
        super().__init__(ctx)
        self.temperature, self.alpha, self.rampup = temperature, alpha, rampup
        self.peers = nn.ModuleList(ctx.new_student() for _ in range(peers))
        width = ctx.student_shapes.embedding
        self.query = nn.Linear(width, max(1, width // factor), bias=False)
        self.key = nn.Linear(width, max(1, width // factor), bias=False)

    def losses(self, batch, student, teacher):
        peers = [peer(batch.images) for peer in self.peers]
        logits = torch.stack([peer.logits for peer in peers], dim=1)
        embeddings = torch.stack([peer.embedding for peer in peers], dim=1)
        targets = attention(self.query(embeddings), self.key(embeddings)) @ logits
        alpha = self.alpha * ramp(self.progress / self.rampup)
        divergence = [soft_cross_entropy(own, target, self.temperature) for own, target in
                      zip(logits.unbind(1), targets.unbind(1), strict=True)]
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "kd": alpha * soft_cross_entropy(student.logits, logits.mean(1), self.temperature),
            "peer_ce": sum(F.cross_entropy(own, batch.labels) for own in logits.unbind(1)),
            "peer_kd": alpha * sum(divergence),
        }


def attention(queries, keys):  # both [B, M, D] -> [B, M, M]
    """The weights that each of M peers gives the others and itself, for each image; they sum to 1."""
    return F.softmax(queries @ keys.transpose(1, 2), dim=2)
