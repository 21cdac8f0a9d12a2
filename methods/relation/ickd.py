import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.stages import projection


class ICKD(Method):
    """The student matches how the channels of the teacher's last stage correlate with each other: which repeat what
    others say (homology), and which do not (diversity).

    loss = CE(student, labels) + alpha / (B C) sum_{images} ||G(embed(s)) - G(t)||_F^2
    with G(x) = X X^T, each of its rows divided by its L2 norm, and X the stage of one image as a matrix [C, H W].

    `embed`, a 1x1 convolution and BatchNorm, brings the student's stage to the teacher's C channels; it is there even
    where their numbers agree. The paper's equation has no norm and divides by C^2. The authors' code for CIFAR-100,
    which is followed, divides the rows by their norm and the sum by C; its weight is 2.5. G has the same size for any
    number of positions, so stages keep their resolutions. The paper's grid version, for segmentation, is not taken
    over.

    The term does not get easier with fewer classes as the cross-entropy does. The code's alpha was chosen for 100
    classes; a rule of ours for K of them is 2.5 K / 100, at most 2.5. That is for runs of few steps, such as the 168 of
    `quick`: in the 2,480 of `cpu` the default did better than plain training (one seed).
    """

    name, family = "ickd", "relation"
    paper = Paper(
        title="Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
        authors=("Li Liu", "Qingle Huang", "Sihao Lin", "Hongwei Xie", "Bing Wang", "Xiaojun Chang",
                 "Xiaodan Liang"),
        year=2021, venue="ICCV", arxiv="2202.03680",
    )
    ranges = {"alpha": (0.0, 50.0)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 2.5):
        super().__init__(ctx)
        self.alpha = alpha
        self.embed = projection(ctx.student_shapes.stages[-1][0], ctx.teacher_shapes.stages[-1][0])

    def losses(self, batch, student, teacher):
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "correlation": self.alpha * correlation_loss(self.embed(student.stages[-1]), teacher.stages[-1]),
        }


def correlation_loss(student, teacher):  # [B, C, H, W], [B, C, H', W']
    """The squared difference of the stages' correlations, summed over a row, averaged over rows and images."""
    return (correlations(student) - correlations(teacher)).pow(2).sum(2).mean()


def correlations(stage):  # [B, C, H, W] -> [B, C, C]
    """Inner products of each image's channels, each row scaled to L2 norm 1."""
    channels = stage.flatten(2)
    return F.normalize(channels @ channels.transpose(1, 2), dim=2)
