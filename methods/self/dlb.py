import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import soft_cross_entropy


class DLB(Method):
    """Each batch is used again in the next step, where the student matches its own predictions of the step before.
    These soft targets are one step old and of another augmentation, which makes predictions consistent.

    loss = CE(student, labels), over this and the last batch, + alpha temperature^2 KL(last || student), over the last

    The last batch comes newly augmented; `last` are its logits of the step before. As in the authors' code a step takes
    a whole new batch and the whole last one, each through the student by itself: twice the images of other methods for
    the same number of updates. Temperature 3 and alpha 1 are the paper's.
    """

    name, family = "dlb", "self"
    paper = Paper(
        title="Self-Distillation from the Last Mini-Batch for Consistency Regularization",
        authors=("Yiqing Shen", "Liwu Xu", "Yuzhe Yang", "Yaqian Li", "Yandong Guo"),
        year=2022, venue="CVPR", arxiv="2203.16172",
    )
    ranges = {"alpha": (0.0, 4.0), "temperature": (1.0, 10.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 1.0, temperature: float = 3.0):
        super().__init__(ctx)
        self.alpha, self.temperature = alpha, temperature
        self.register_buffer("last_positions", torch.zeros(ctx.batch_size, dtype=torch.int64))
        self.register_buffer("last_logits", torch.zeros(ctx.batch_size, ctx.num_classes))

    def losses(self, batch, student, teacher):
        if self.step_index == 0:  # there is no last batch
            terms = {"ce": F.cross_entropy(student.logits, batch.labels)}
        else:
            again = self.ctx.sample(self.last_positions)
            logits = self.student(again.images).logits
            terms = {
                "ce": F.cross_entropy(torch.cat([logits, student.logits]), torch.cat([again.labels, batch.labels])),
                "kd": self.alpha * soft_cross_entropy(logits, self.last_logits, self.temperature),
            }
        self.last_positions = batch.positions
        self.last_logits = student.logits.detach()
        return terms
