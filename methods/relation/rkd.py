import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper


class RKD(Method):
    """The student matches the relations between the teacher's embeddings of a batch: the distances of all pairs of
    images and the angles of all triplets.

    loss = CE(student, labels) + distance_weight huber(d_s, d_t) + angle_weight huber(cos_s, cos_t)
    with d_ij = ||e_i - e_j|| over its mean in the batch, and cos_jik = cosine of the angle at e_j to e_i and e_k.

    As in the authors' code both terms are means over all B^2 pairs and B^3 triplets, where the paper writes sums. The
    weights are those of Tian et al. (2020), since that code covers metric learning alone (with 1 and 2). The cosines
    come from the distances by the law of cosines: B^3 steps, where products of differences take B^3 D.
    """

    name, family = "rkd", "relation"
    paper = Paper(
        title="Relational Knowledge Distillation",
        authors=("Wonpyo Park", "Dongju Kim", "Yan Lu", "Minsu Cho"),
        year=2019, venue="CVPR", arxiv="1904.05068",
    )
    ranges = {"distance_weight": (0.0, 200.0), "angle_weight": (0.0, 400.0)}
    unlabelled = "beside"

    def __init__(self, ctx, *, distance_weight: float = 25.0, angle_weight: float = 50.0):
        super().__init__(ctx)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def losses(self, batch, student, teacher):
        ours, theirs = distances(student.embedding), distances(teacher.embedding)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "distance": self.distance_weight * F.smooth_l1_loss(ours, theirs),
            "angle": self.angle_weight * F.smooth_l1_loss(cosines(ours), cosines(theirs)),
        }


def distances(embedding):  # [B, D] -> [B, B]
    """Euclidean distances between the samples, divided by the mean of those that are not zero."""
    raw = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")  # exact for close samples
    mean = raw.sum() / (raw > 0).sum().clamp(min=1)
    return raw / mean.clamp(min=1e-12)


def cosines(distance):  # [B, B] -> [B, B, B]
    """Entry (j, i, k) is the cosine of the angle at j between i and k; 0 where j coincides with i or k."""
    inverse = 1 / distance.masked_fill(distance == 0, 1)
    square = distance.square()
    doubled = square[:, :, None] + square[:, None, :] - square  # 2 d_ji d_jk cos
    return doubled * inverse[:, :, None] * inverse[:, None, :] / 2
