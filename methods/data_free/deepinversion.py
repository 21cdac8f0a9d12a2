import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.bank import distill_on, shifted


class DeepInversion(Method):
    """Noise is optimised into images of each class whose statistics in the teacher's BatchNorm layers are those of the
    training images, and on which the student still differs from the teacher. The student is distilled on the images
    that exist so far. No training image is seen.

    images:  CE(teacher, class) + feature R + variation TV + l2 |x|_2 + competition (1 - JS(teacher, student)),
             R = sum over BatchNorm layers of |mean - running mean|_2 + |variance - running variance|_2,
             TV = sum over four directions of the L2 norm of the differences of neighbouring pixels,
             JS the Jensen-Shannon divergence of the class probabilities at `temperature`
    student: temperature^2 KL(teacher || student)

    Each step is one update of the student. `batches` batches of images are made at even intervals over the first
    `synthesis` of the run, the first one in step 0, at most one in a step; each takes `iterations` updates of its
    images, and so as many passes of the teacher. The first batch is made without competition, since the student knows
    nothing yet; later ones compete with the student as it is then, in eval mode ("Adaptive DeepInversion").

    The defaults are the paper's for CIFAR-10; of its grid of `feature` weights (1, 5, 10, 100), that which the README
    of the authors' code calls the paper's. The code makes one batch, without competition, and trains no student. As its
    authors say elsewhere (issues 6 and 9 of NVlabs/DeepInversion), they made 1,000 batches of 256, one after each 50
    updates of the student, and distilled at temperature 3. That is two million passes of the teacher: a suite says what
    it can pay. Of the code, not the paper, are the jitter and the temperature of the competition, 3 too. We take the
    paper's divergence; the code bounds probabilities by 0.01 and swaps the arguments of its KL. Ours: when images are
    made; that the student sees them jittered; and that they are clipped to what pixels can be, as in the code for
    ImageNet alone. A teacher without BatchNorm is inverted by the other terms alone.
    """

    name, family = "deepinversion", "data_free"
    needs_data = False
    conditions = ("BatchNorm statistics",)
    paper = Paper(
        title="Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion",
        authors=("Hongxu Yin", "Pavlo Molchanov", "Jose M. Alvarez", "Zhizhong Li", "Arun Mallya", "Derek Hoiem",
                 "Niraj K. Jha", "Jan Kautz"),
        year=2020, venue="CVPR", arxiv="1912.08795",
    )
    needs_images = True
    ranges = {"batches": (1, 100000), "synthesis": (0.0, 1.0), "iterations": (1, 20000), "image_lr": (1e-4, 1.0),
              "feature": (0.0, 1000.0), "variation": (0.0, 1.0), "l2": (0.0, 1.0), "competition": (0.0, 100.0),
              "jitter": (0, 32), "temperature": (1.0, 20.0)}

    def __init__(self, ctx, *, batches: int = 1000, synthesis: float = 0.5, iterations: int = 2000,
                 image_lr: float = 0.05, feature: float = 10.0, variation: float = 2.5e-5, l2: float = 3e-8,
                 competition: float = 10.0, jitter: int = 2, temperature: float = 3.0):
        super().__init__(ctx)
        self.feature, self.variation, self.l2, self.competition = feature, variation, l2, competition
        self.iterations, self.image_lr, self.jitter, self.temperature = iterations, image_lr, jitter, temperature
        self.span = max(1, round(synthesis * ctx.steps))  # the steps over which batches are made
        self.batches = min(batches, self.span)
        self.register_buffer("bank", torch.zeros(self.batches, ctx.batch_size, *ctx.image_shape))

    def made(self, step):
        """How many batches of images exist after that step."""
        return 1 + min(step, self.span - 1) * self.batches // self.span if step >= 0 else 0

    def rare_steps(self):
        return [step for step in range(self.ctx.steps) if self.made(step) > self.made(step - 1)]

    def step(self, batch, optimizers):
        made, before = self.made(self.step_index), self.made(self.step_index - 1)
        terms = self.synthesise(before) if made > before else {}
        learned = distill_on(self.bank[:made].flatten(0, 1), self, optimizers["main"], self.jitter, self.temperature)
        return {**terms, **learned}

    def synthesise(self, number):
        """Make the batch of that number from noise. Returns the terms of its last update."""
        images = torch.randn(self.bank.shape[1:], device=self.bank.device)
        images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=self.image_lr)
        classes = torch.arange(number * len(images), (number + 1) * len(images), device=images.device)
        self.student.eval()
        for _ in range(self.iterations):
            terms = self.image_terms(shifted(images, self.jitter), classes % self.ctx.num_classes, competing=number > 0)
            images.grad, = torch.autograd.grad(sum(terms.values()), images)  # not of the student's weights
            optimizer.step()
            images.data.clamp_(self.ctx.pixel_low, self.ctx.pixel_high)
        self.student.train()
        self.bank[number] = images.detach()
        return terms

    def image_terms(self, images, classes, competing):
        """The terms of the loss of images [B, C, H, W] that shall be of the classes [B]."""
        teacher, difference = feature_difference(self.ctx.teacher, images)
        terms = {
            "class": F.cross_entropy(teacher.logits, classes), "feature": self.feature * difference,
            "variation": self.variation * total_variation(images), "l2": self.l2 * images.norm(),
        }
        if competing and self.competition:
            divergence = jensen_shannon(teacher.logits, self.student(images).logits, self.temperature)
            terms["competition"] = self.competition * (1 - divergence)
        return terms


def jensen_shannon(first, second, temperature):
    """The mean of the KL divergences of two distributions from their mean, for class probabilities of logits [B, K] at
    `temperature`, averaged over the batch: from 0, equal, to log 2, disjoint."""
    first, second = (F.log_softmax(logits / temperature, dim=1) for logits in (first, second))
    middle = torch.logaddexp(first, second) - torch.log(first.new_tensor(2.0))
    return sum(F.kl_div(middle, each, reduction="batchmean", log_target=True) for each in (first, second)) / 2


def feature_difference(network, images):
    """The network's outputs on images [B, C, H, W], and the L2 distances of the mean and variance of each BatchNorm
    layer's input to the layer's running ones, summed over the layers."""
    differences = [images.new_zeros(())]

    def compare(layer, inputs, _):
        x = inputs[0].float().movedim(1, -1).flatten(0, 2)  # [BHW, C]: much faster than over three dimensions
        mean, variance = Moments.apply(x)
        differences.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    hooks = [layer.register_forward_hook(compare) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    try:
        return network(images), sum(differences)
    finally:
        for hook in hooks:
            hook.remove()


class Moments(torch.autograd.Function):
    """Mean and variance [C] of the rows of x [N, C]. Autograd's own gradient has the same bits, in eight passes over
    arrays of x's size where this one takes three."""

    @staticmethod
    def forward(ctx, x):
        mean = x.mean(dim=0)
        centred = x - mean
        ctx.save_for_backward(centred)
        return mean, centred.square().mean(dim=0)

    @staticmethod
    def backward(ctx, of_mean, of_variance):
        centred, = ctx.saved_tensors
        gradient = centred * (2 * (of_variance / len(centred)))
        return gradient.add_((of_mean - gradient.sum(dim=0)) / len(centred))


def total_variation(images):  # [B, C, H, W]
    """The L2 norms of the differences to the neighbouring pixels right, below and on both diagonals, summed."""
    return (
        (images[:, :, :, 1:] - images[:, :, :, :-1]).norm() + (images[:, :, 1:] - images[:, :, :-1]).norm()
        + (images[:, :, 1:, 1:] - images[:, :, :-1, :-1]).norm()
        + (images[:, :, 1:, :-1] - images[:, :, :-1, 1:]).norm()
    )
