from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy
from kdbench.parts.stages import match_resolution, pair_stages, projection


def hint_loss(guided, hint):  # both [B, C, H, W]
    """Half the squared distance of the channels, averaged over batch and positions."""
    return 0.5 * (guided - hint).pow(2).sum(1).mean()


class FitNet(Method):
    """The student's lower half first learns to regress a middle layer of the teacher (the hint). Then the whole student
    learns from the labels and the softened teacher, whose weight decays.

    first hint_share of the steps: loss = 1/2 ||regressor(student stage) - teacher stage||^2
    the rest: loss = CE(student, labels) + alpha(step) CE(teacher, student; temperature), alpha falling linearly

    Both stages of the paper, inside one budget; the paper ends its first stage by validation error, so its length is
    ours. Values and decay as in the authors' code; there, too, the soft term has no squared temperature. The paper's
    squared norm is over a whole map. Their code sums over the second axis of arrays of (channels, rows, columns,
    images), the rows, and averages over the rest; as they descend it by RMSprop, its scale is of no effect. For SGD we
    sum over the channels and average over positions: the rate then suits maps of any size. Later one-stage versions
    (RepDistiller: CE + 100 MSE) are another method. The regressor has BatchNorm in place of the authors' norm
    constraint and no rectifier, since a timm teacher's stage may be negative; where resolutions differ, the larger map
    is pooled instead of regressed by a wide kernel.

    Each stage has the recipe's schedule for itself, as if they were two runs. Under one schedule the second began at
    the full rate, with layers that were still as drawn (`cpu`, second pair, validation accuracy of seed 0: 79.9 %; with
    two schedules 84.3, without a first stage 84.5).
    """

    name, family = "fitnet", "feature"
    paper = Paper(
        title="FitNets: Hints for Thin Deep Nets",
        authors=("Adriana Romero", "Nicolas Ballas", "Samira Ebrahimi Kahou", "Antoine Chassang", "Carlo Gatta",
                 "Yoshua Bengio"),
        year=2015, venue="ICLR", arxiv="1412.6550",
    )
    ranges = {"hint_share": (0.0, 0.9), "temperature": (1.0, 20.0), "alpha": (0.0, 20.0), "alpha_end": (0.0, 20.0)}
    unlabelled = "alone"
    conditions = ("with kd",)

    def __init__(self, ctx, *, hint_share: float = 0.3, temperature: float = 3.0, alpha: float = 4.0,
                 alpha_end: float = 1.0):
        super().__init__(ctx)
        self.first_part, self.temperature, self.alpha, self.alpha_end = hint_share, temperature, alpha, alpha_end
        student, teacher = middle(pair_stages(ctx.student_shapes.stages, ctx.teacher_shapes.stages))
        self.regressor = projection(student[0], teacher[0])

    def losses(self, batch, student, teacher):
        if self.in_first_part:  # nothing above the guided stage has a gradient, so nothing there moves
            guided, hint = middle(pair_stages(student.stages, teacher.stages))
            return {"hint": hint_loss(*match_resolution(self.regressor(guided), hint))}
        done = (self.progress - self.first_part) / (1 - self.first_part)
        alpha = self.alpha + (self.alpha_end - self.alpha) * done
        soft = soft_cross_entropy(student.logits, teacher.logits, self.temperature) / self.temperature**2
        return {"ce": labelled_cross_entropy(student.logits, batch.labels), "kd": alpha * soft}


def middle(stages):
    """The middle one of a list; of an even number, the shallower of the two."""
    return stages[(len(stages) - 1) // 2]
