import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.groups import WorstCells, cells_of
from kdbench.parts.losses import soft_cross_entropies


class GroupDROKD(Method):
    """The student matches the teacher's softened class probabilities and the labels, and the class of a group on which
    it does so worst counts most.

    loss = sum_c q_c L_c,  q_c <- q_c exp(step_size L_c), scaled to sum 1, over the classes of each group c,
    where L_c is the mean over c of (1 - alpha) CE(student, labels) + alpha temperature^2 KL(teacher || student)

    The paper (GroupDistil) puts the loss of kd into group DRO. Here L_c is estimated from a batch by importance
    weights, as in group_dro; with step_size 0 it is balanced_kd. Temperature and alpha are those of kd, step_size that
    of group_dro. `attribute` names the attribute whose groups count; "" is the dataset's first: the first column of
    groups.csv, and without one the tint of a skewed dataset.
    """

    name, family = "group_dro_kd", "logit"
    paper = Paper(
        title="Group Distributionally Robust Knowledge Distillation",
        authors=("Konstantinos Vilouras", "Xiao Liu", "Pedro Sanchez", "Alison Q. O'Neil", "Sotirios A. Tsaftaris"),
        year=2023, venue="MLMI", arxiv="2311.00476",
    )
    ranges = {"temperature": (1.0, 20.0), "alpha": (0.0, 1.0), "step_size": (0.0, 0.1)}
    needs_groups = True
    conditions = ("with groups",)

    def __init__(self, ctx, *, temperature: float = 4.0, alpha: float = 0.9, step_size: float = 0.01,
                 attribute: str = ""):
        super().__init__(ctx)
        self.temperature, self.alpha = temperature, alpha
        self.worst = WorstCells(cells_of(ctx, attribute), step_size)

    def losses(self, batch, student, teacher):
        hard = F.cross_entropy(student.logits, batch.labels, reduction="none")
        soft = soft_cross_entropies(student.logits, teacher.logits, self.temperature)
        return {"kd": self.worst((1 - self.alpha) * hard + self.alpha * soft, batch.positions)}
