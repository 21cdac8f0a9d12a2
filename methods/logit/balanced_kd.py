import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.groups import balanced_weights, cells_of
from kdbench.parts.losses import soft_cross_entropies


class BalancedKD(Method):
    """The student matches the teacher's softened class probabilities, and each class of each group counts alike,
    whatever its number of images.

    loss = mean w ((1 - alpha) CE(student, labels) + alpha temperature^2 KL(teacher || student)),
    w = N / (M x training images of the class and group), M of which there are

    It is kd with the weights of balanced_ce, whose paper (RWG) has no teacher: what a user would try first. Where each
    class of each group has as many images, it is kd. It leaves the teacher as it is: what the teacher says of a group's
    images is passed on with their weight. `attribute` names the attribute whose groups count; "" is the dataset's
    first: the first column of groups.csv, and without one the tint of a skewed dataset.
    """

    name, family = "balanced_kd", "logit"
    paper = Paper(
        title="Simple Data Balancing Achieves Competitive Worst-Group-Accuracy",
        authors=("Badr Youbi Idrissi", "Martin Arjovsky", "Mohammad Pezeshki", "David Lopez-Paz"),
        year=2022, venue="CLeaR", arxiv="2110.14503",
    )
    ranges = {"temperature": (1.0, 20.0), "alpha": (0.0, 1.0)}
    needs_groups = True
    conditions = ("with groups",)

    def __init__(self, ctx, *, temperature: float = 4.0, alpha: float = 0.9, attribute: str = ""):
        super().__init__(ctx)
        self.temperature, self.alpha = temperature, alpha
        self.weights = balanced_weights(cells_of(ctx, attribute))

    def losses(self, batch, student, teacher):
        weights = self.weights[batch.positions]
        hard = F.cross_entropy(student.logits, batch.labels, reduction="none")
        soft = soft_cross_entropies(student.logits, teacher.logits, self.temperature)
        return {"ce": (1 - self.alpha) * (weights * hard).mean(), "kd": self.alpha * (weights * soft).mean()}
