import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.groups import WorstCells, cells_of


class GroupDRO(Method):
    """Training on the labels alone, in which the class of a group that has the highest loss counts most.
    The control for group_dro_kd, without a teacher.

    loss = sum_c q_c L_c,  q_c <- q_c exp(step_size L_c), scaled to sum 1, over the classes of each group c

    The paper draws each group equally often. Here all methods see the same batches, so that the loss L_c is estimated
    from a batch by importance weights: sum of its images' CE x N / (B x training images of c). With step_size 0 it is
    balanced_ce. The default 0.01 is the authors'. They stress that it takes strong regularisation or early stopping:
    where every training image is learned by heart, all losses vanish and the weights do nothing. Their adjustment for
    group sizes is left out, as it is 0 by default. `attribute` names the attribute whose groups count; "" is the
    dataset's first: the first column of groups.csv, and without one the tint of a skewed dataset.
    """

    name, family = "group_dro", "baseline"
    paper = Paper(
        title="Distributionally Robust Neural Networks for Group Shifts: On the Importance of Regularization for "
              "Worst-Case Generalization",
        authors=("Shiori Sagawa", "Pang Wei Koh", "Tatsunori B. Hashimoto", "Percy Liang"),
        year=2020, venue="ICLR", arxiv="1911.08731",
    )
    ranges = {"step_size": (0.0, 0.1)}
    learns_from = None
    needs_groups = True
    conditions = ("with groups",)

    def __init__(self, ctx, *, step_size: float = 0.01, attribute: str = ""):
        super().__init__(ctx)
        self.worst = WorstCells(cells_of(ctx, attribute), step_size)

    def losses(self, batch, student, teacher):
        each = F.cross_entropy(student.logits, batch.labels, reduction="none")
        return {"ce": self.worst(each, batch.positions)}
