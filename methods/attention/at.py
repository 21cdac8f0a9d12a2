import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import attention_loss
from kdbench.parts.stages import pair_stages


class AttentionTransfer(Method):
    """The student matches the teacher's attention maps: how the energy of each stage is distributed over the positions.
    The maps have no channels, so networks of any width are compared without adapters.

    loss = CE(student, labels) + alpha sum over stages of mean((Q_S - Q_T)^2),  Q = sum_c A_c^2 / ||sum_c A_c^2||_2

    The paper writes beta/2 times the norm of the difference and says that beta = 1000 is divided by the elements of the
    batch's maps; its code has the mean of squares, without the half. We take the code's.

    Maps of norm 1 differ by at most 2 in norm, however many positions they have: the mean over H x W positions makes
    the gradient go as 1 / (H W). 1000 belongs to last stages of 8 x 8 (CIFAR) and 7 x 7 (ImageNet). For others take
    alpha = 1000 H W / 64 of the smaller last stage that has more than one position: 250 for 4 x 4.
    """

    name, family = "at", "attention"
    paper = Paper(
        title="Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via "
              "Attention Transfer",
        authors=("Sergey Zagoruyko", "Nikos Komodakis"), year=2017, venue="ICLR", arxiv="1612.03928",
    )
    ranges = {"alpha": (10.0, 10000.0)}
    unlabelled = "beside"

    @classmethod
    def inapplicable(cls, student, teacher):
        pairs = pair_stages(student.stages, teacher.stages)
        if all(min(s[1] * s[2], t[1] * t[2]) == 1 for s, t in pairs):
            return "no pair of stages has more than one position to attend to"
        return None

    def __init__(self, ctx, *, alpha: float = 1000.0):
        super().__init__(ctx)
        self.alpha = alpha

    def losses(self, batch, student, teacher):
        pairs = pair_stages(student.stages, teacher.stages)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "attention": self.alpha * sum(attention_loss(s, t) for s, t in pairs),
        }
