import torch
from torch.distributions import Beta

from kdbench.method import Method, Paper
from kdbench.parts.losses import soft_cross_entropy


def mixed(images, share):
    """Each image of a batch [B, C, H, W] mixed with the one before it: share x its own + (1 - share) x the other."""
    return share * images + (1 - share) * images.roll(1, dims=0)


class FunctionMatching(Method):
    """Distillation as matching of functions: student and teacher see the very same view of an image, crop, flip and
    mixture alike, and the student learns the teacher's probabilities there. Mixtures of images widen the support on
    which the functions are matched; labels are not read.

    loss = temperature^2 KL(teacher || student) on share x image + (1 - share) x another, share from Beta(mixup, mixup)

    A batch has one share, at least 1/2, and its images mix with their neighbours in it, as in the authors' code;
    `mixup` 0 mixes nothing. Their shares are uniform (mixup 1). Temperature 1 is theirs for ImageNet; on small datasets
    they use 1 to 10. Crops are the recipe's.

    The paper's third ingredient is patience, hundreds to thousands of epochs; here the budget is everybody's. A student
    that is small and has few steps does not get as far as the images themselves: on `quick`, with its 168 steps, it had
    56 % of the validation images right, with four times as many 95 %. Smaller `mixup` serves short runs.
    """

    name, family = "function_matching", "logit"
    paper = Paper(
        title="Knowledge Distillation: A Good Teacher Is Patient and Consistent",
        authors=("Lucas Beyer", "Xiaohua Zhai", "Amélie Royer", "Larisa Markeeva", "Rohan Anil",
                 "Alexander Kolesnikov"),
        year=2022, venue="CVPR", arxiv="2106.05237",
    )
    ranges = {"temperature": (1.0, 20.0), "mixup": (0.0, 1.0)}
    unlabelled = "alone"
    needs_images = True
    conditions = ("no labels", "mixup")

    def __init__(self, ctx, *, temperature: float = 1.0, mixup: float = 1.0):
        super().__init__(ctx)
        self.temperature, self.mixup = temperature, mixup

    def step(self, batch, optimizers):
        if self.mixup:
            share = Beta(self.mixup, self.mixup).sample().item()
            batch = batch._replace(images=mixed(batch.images, max(share, 1 - share)))
        return super().step(batch, optimizers)

    @torch.no_grad()
    def teach(self, batch):
        return self.ctx.teacher(batch.images)  # of mixtures, which no kept answers are of

    def losses(self, batch, student, teacher):
        return {"kd": soft_cross_entropy(student.logits, teacher.logits, self.temperature)}
