import torch.nn.functional as F

from kdbench.method import Method, Paper

EPS = 1e-7


class PKT(Method):
    """For each image, the similarities of its embedding to those of the batch form a probability distribution over the
    batch. The student matches the teacher's distributions, whatever the width of the embeddings.

    loss = CE(student, labels) + alpha / B^2 sum_{i,j} p_ij log(p_ij / q_ij)
    with p_ij = (1 + cos(e_i, e_j)) / sum_k (1 + cos(e_i, e_k)) of the teacher and q_ij of the student.

    The paper sums over i != j; the authors' code, followed here, takes the mean over all pairs, i = j included. The
    paper trains representations by this term alone; together with cross-entropy, alpha is 30000 in Tian et al. (2020).
    """

    name, family = "pkt", "relation"
    paper = Paper(
        title="Learning Deep Representations with Probabilistic Knowledge Transfer",
        authors=("Nikolaos Passalis", "Anastasios Tefas"),
        year=2018, venue="ECCV", arxiv="1803.10837",
    )
    ranges = {"alpha": (0.0, 300000.0)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 30000.0):
        super().__init__(ctx)
        self.alpha = alpha

    def losses(self, batch, student, teacher):
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "probabilistic": self.alpha * neighbour_divergence(student.embedding, teacher.embedding),
        }


def neighbour_divergence(student, teacher):  # [B, D_s], [B, D_t]
    """The sum of KL(teacher || student) over the samples' distributions, divided by B^2."""
    ours, theirs = neighbours(student), neighbours(teacher)
    return (theirs * ((theirs + EPS) / (ours + EPS)).log()).mean()


def neighbours(embedding):  # [B, D] -> [B, B], rows sum to 1
    """Cosine similarities of the samples plus 1, divided by their sum over each row: one distribution per sample."""
    directions = embedding / (embedding.norm(dim=1, keepdim=True) + EPS)
    similarity = directions @ directions.T + 1
    return similarity / similarity.sum(dim=1, keepdim=True)
