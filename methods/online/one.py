import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.branches import LastStage, tapped
from kdbench.parts.losses import ramp, soft_cross_entropy


class ONE(Method):
    """Further copies of the student's last stage branch off its lower stages. A gate blends the logits of all branches
    into those of a teacher, at each step anew ("on the fly"), and every branch learns from it.

    loss = sum_i CE(branch_i, labels) + CE(ensemble, labels)
         + alpha ramp(progress) temperature^2 sum_i KL(ensemble || branch_i)
    ensemble logits = sum_i g_i z_i, with g = softmax(ReLU(BatchNorm(W pooled shared features)))

    Temperature 3, two branches beside the student's own, and the gate are the paper's; the ramp
    exp(-5 (1 - progress / rampup)^2), over 80 of 300 epochs, is the authors' code's. The ensemble is a constant in the
    divergence, as there. Branches start from weights of their own. Only the student, without branches, is scored.
    """

    name, family = "one", "online"
    conditions = ("branches",)
    learns_from = None
    paper = Paper(
        title="Knowledge Distillation by On-the-Fly Native Ensemble",
        authors=("Xu Lan", "Xiatian Zhu", "Shaogang Gong"),
        year=2018, venue="NeurIPS", arxiv="1806.04606",
    )
    ranges = {"branches": (1, 4), "temperature": (1.0, 20.0), "alpha": (0.0, 10.0), "rampup": (0.01, 1.0)}

    def __init__(self, ctx, *, branches: int = 2, temperature: float = 3.0, alpha: float = 1.0, rampup: float = 0.27):
        super().__init__(ctx)
        self.temperature, self.alpha, self.rampup = temperature, alpha, rampup
        self.branches = nn.ModuleList(LastStage(ctx.new_student(), ctx.image_shape) for _ in range(branches))
        channels = ctx.student_shapes.stages[-2][0]
        self.gate = nn.Sequential(nn.Linear(channels, 1 + branches), nn.BatchNorm1d(1 + branches), nn.ReLU(),
                                  nn.Softmax(dim=1))

    @classmethod
    def inapplicable(cls, student, teacher):
        if len(student.stages) < 2:
            return "the student has a single stage, so that branches would have nothing to share"
        if not student.divisible:
            return "the student does not say where its last stage begins, so that nothing can branch off there"
        return None

    def study(self, batch):
        """The student's outputs, and the features at which its last stage and the other branches begin."""
        return tapped(self.student, batch.images)

    def losses(self, batch, student, teacher):
        outputs, shared = student
        logits = torch.stack([outputs.logits, *(branch(shared) for branch in self.branches)])
        weights = self.gate(outputs.stages[-2].mean((2, 3)))
        ensemble = blend(logits, weights)
        alpha = self.alpha * ramp(self.progress / self.rampup)
        ce = [F.cross_entropy(branch, batch.labels) for branch in logits]
        kd = [alpha * soft_cross_entropy(branch, ensemble.detach(), self.temperature) for branch in logits]
        return {
            "ce": ce[0], "kd": kd[0], "branch_ce": sum(ce[1:]), "branch_kd": sum(kd[1:]),
            "ensemble_ce": F.cross_entropy(ensemble, batch.labels),
        }


def blend(logits, weights):  # [M, B, K], [B, M] -> [B, K]
    """The weighted sum of the M branches' logits, with weights of its own for each image."""
    return torch.einsum("mbk,bm->bk", logits, weights)
