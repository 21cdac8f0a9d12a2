import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.stages import pair_stages


class SimilarityPreserving(Method):
    """The student matches the similarities between the images of a batch in the teacher's stages, not the features
    themselves, so stages of any size can be compared.

    loss = CE(student, labels) + alpha / B^2 sum_{stages} ||G_student - G_teacher||_F^2
    with G = Q Q^T, each of its rows divided by its L2 norm, and Q the stage as a matrix [B, C H W].

    The paper sums over any set of stage pairs and uses the last stage of each network on CIFAR-10, with alpha 3000;
    `stages` counts the pairs from the deep end. The rows have norm 1 and the mean is over B^2 entries, so the gradient
    goes as 1 / B^2 for an image where that of the cross-entropy goes as 1 / B: alpha goes with the batch size.
    """

    name, family = "sp", "relation"
    paper = Paper(
        title="Similarity-Preserving Knowledge Distillation",
        authors=("Frederick Tung", "Greg Mori"),
        year=2019, venue="ICCV", arxiv="1907.09682",
    )
    ranges = {"alpha": (0.0, 30000.0), "stages": (1, 4)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 3000.0, stages: int = 1):
        super().__init__(ctx)
        self.alpha, self.stages = alpha, stages

    def losses(self, batch, student, teacher):
        pairs = pair_stages(student.stages, teacher.stages)[-self.stages:]
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "similarity": self.alpha * sum(similarity_loss(*pair) for pair in pairs),
        }


def similarity_loss(student, teacher):  # each [B, C, H, W]
    """The mean squared difference of the two stages' similarities between samples."""
    return F.mse_loss(similarities(student), similarities(teacher))


def similarities(stage):  # [B, C, H, W] -> [B, B]
    """Inner products of the samples' features, each row scaled to L2 norm 1."""
    features = stage.flatten(1)
    return F.normalize(features @ features.T, dim=1)
