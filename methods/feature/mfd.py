import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.groups import attribute_of


def mmd_loss(student, teacher, labels, groups, sigma=1.0):  # [B, D], [B, D], [B], [B]
    """The sum, over the classes of each group in the batch, of the squared maximum mean discrepancy between the
    teacher's features of the class and the student's of its images in the group.

    The kernel is exp(-|x - y|^2 / (2 sigma s)), where s is the mean squared distance of a teacher's feature to a
    student's in the batch, without gradient.
    """
    across, within, own = (square_distances(*pair) for pair in ((teacher, student), (student, student),
                                                                (teacher, teacher)))
    width = 2 * sigma * across.mean().detach()
    across, within, own = (torch.exp(-distances / width) for distances in (across, within, own))
    total = across.new_zeros(())
    for label in labels.unique():
        taught = (labels == label).to(across)
        taught = taught / taught.sum()  # the weight of each teacher's feature in the mean over the class
        for group in groups[labels == label].unique():
            chosen = ((labels == label) & (groups == group)).to(across)
            chosen = chosen / chosen.sum()
            total = total + taught @ own @ taught + chosen @ within @ chosen - 2 * taught @ across @ chosen
    return total


def square_distances(first, second):  # [N, D], [M, D] -> [N, M]
    squares = first.square().sum(1)[:, None] + second.square().sum(1)[None] - 2 * first @ second.T
    return squares.clamp(min=1e-12)


class MFD(Method):
    """In each group, the student's features of a class are distributed like the teacher's of the whole class, so that
    they tell nothing of the group (MMD-based fair distillation).

    loss = CE(student, labels) + alpha / 2 sum over classes y and groups a of MMD^2(teacher | y, student | y, a)

    Features are embeddings; MMD is with the Gaussian kernel, as wide as the batch's mean squared distance of teacher to
    student, as in the authors' code, from which alpha 3 (CIFAR-10S, UTKFace; CelebA 7) and sigma 1 are. There, a loader
    draws each class and group equally often; here the batches are those of all methods, and a rare group has few images
    in one. Teacher and student are of one architecture in the paper: where embeddings differ in length, a linear layer
    takes the student's to the teacher's, like the regressor of the authors' later MFD-R. It can itself hide the group
    from the loss. `attribute` names the attribute whose groups count; "" is the dataset's first: the first column of
    groups.csv, and without one the tint of a skewed dataset.
    """

    name, family = "mfd", "feature"
    paper = Paper(
        title="Fair Feature Distillation for Visual Recognition",
        authors=("Sangwon Jung", "Donggyu Lee", "Taeeon Park", "Taesup Moon"),
        year=2021, venue="CVPR", arxiv="2106.04411",
    )
    ranges = {"alpha": (0.1, 30.0), "sigma": (0.1, 10.0)}
    needs_groups = True
    conditions = ("with groups",)

    def __init__(self, ctx, *, alpha: float = 3.0, sigma: float = 1.0, attribute: str = ""):
        super().__init__(ctx)
        self.alpha, self.sigma = alpha, sigma
        self.groups = ctx.train_groups[attribute_of(ctx.train_groups, attribute)]
        sizes = ctx.student_shapes.embedding, ctx.teacher_shapes.embedding
        self.regressor = nn.Linear(*sizes) if sizes[0] != sizes[1] else nn.Identity()

    def losses(self, batch, student, teacher):
        features = self.regressor(student.embedding)
        mmd = mmd_loss(features, teacher.embedding, batch.labels, self.groups[batch.positions], self.sigma)
        return {"ce": F.cross_entropy(student.logits, batch.labels), "mmd": self.alpha / 2 * mmd}
