import math

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper, descend
from kdbench.parts.losses import soft_cross_entropy


class DeepInversion(Method):
    """Noise is optimised into images of each class whose statistics in the teacher's BatchNorm layers are those of the
    training images. The student is then distilled on these images. No training image is seen.

    images:  CE(teacher, class) + feature R + variation TV + l2 |x|_2,
             R = sum over BatchNorm layers of |mean - running mean|_2 + |variance - running variance|_2,
             TV = sum over four directions of the L2 norm of the differences of neighbouring pixels
    student: temperature^2 KL(teacher || student)

    The first steps, up to a share `synthesis` of all, make images, `updates` updates of one batch each; when a batch
    has had `iterations` of them it is put aside and the next one starts from noise, until there are `bank_size` images.
    The other steps are one update of the student each. The jitter by up to two pixels is the paper's. After each update
    the images are clipped to what pixels can be, as in the authors' code for ImageNet.

    The paper gives a batch for CIFAR-10 2000 iterations, at a rate of 0.05 and with feature 10. Ours are fewer, for
    short runs, in which that weight outweighs the class term: hence 0.3 and a rate of 0.2. This is DeepInversion
    without the adaptive competition with the student, which does not exist while images are made. A teacher without
    BatchNorm is inverted by the other terms alone.
    """

    name, family = "deepinversion", "data_free"
    needs_data = False
    paper = Paper(
        title="Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion",
        authors=("Hongxu Yin", "Pavlo Molchanov", "Jose M. Alvarez", "Zhizhong Li", "Arun Mallya", "Derek Hoiem",
                 "Niraj K. Jha", "Jan Kautz"),
        year=2020, venue="CVPR", arxiv="1912.08795",
    )
    ranges = {"synthesis": (0.05, 0.95), "updates": (1, 100), "iterations": (1, 20000), "bank_size": (1, 1000000),
              "image_lr": (1e-4, 1.0), "feature": (0.0, 1000.0), "variation": (0.0, 1.0), "l2": (0.0, 1.0),
              "jitter": (0, 32), "temperature": (1.0, 20.0)}

    def __init__(self, ctx, *, synthesis: float = 0.2, updates: int = 30, iterations: int = 100,
                 bank_size: int = 1024, image_lr: float = 0.2, feature: float = 0.3, variation: float = 2.5e-5,
                 l2: float = 3e-8, jitter: int = 2, temperature: float = 3.0):
        super().__init__(ctx)
        self.feature, self.variation, self.l2 = feature, variation, l2
        self.image_lr, self.updates, self.jitter, self.temperature = image_lr, updates, jitter, temperature
        longest = max(1, round(synthesis * ctx.steps))
        self.batches = max(1, min(longest * updates // iterations, bank_size // ctx.batch_size))
        self.synthesis_steps = min(longest, math.ceil(self.batches * iterations / updates))
        self.images = nn.Parameter(self.noise())
        self.register_buffer("bank", torch.zeros(self.batches, *self.images.shape))

    def noise(self):
        noise = torch.randn(self.ctx.batch_size, *self.ctx.image_shape)
        return noise.to(memory_format=torch.channels_last)

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()), "images": torch.optim.Adam([self.images], lr=self.image_lr),
        }

    def step(self, batch, optimizers):
        if self.step_index >= self.synthesis_steps:
            return self.distil(optimizers["main"])
        for update in range(self.step_index * self.updates, (self.step_index + 1) * self.updates):
            terms = self.synthesise(update, optimizers["images"])
        return terms

    def synthesise(self, update, optimizer):
        """One update of the images, number `update` of all from 0; after its last one a batch is copied to the bank."""
        batch = self.batch_of(update)
        if batch != self.batch_of(update - 1):
            self.images.data.copy_(self.noise())
            optimizer.state.clear()
        first = batch * len(self.images)
        classes = torch.arange(first, first + len(self.images), device=self.images.device) % self.ctx.num_classes
        images = self.shifted(self.images)
        teacher, difference = feature_difference(self.ctx.teacher, images)
        terms = {
            "class": F.cross_entropy(teacher.logits, classes), "feature": self.feature * difference,
            "variation": self.variation * total_variation(images), "l2": self.l2 * images.norm(),
        }
        descend(optimizer, sum(terms.values()))
        self.images.data.clamp_(self.ctx.pixel_low, self.ctx.pixel_high)
        if batch != self.batch_of(update + 1):
            self.bank[batch] = self.images.detach()
        return terms

    def batch_of(self, update):
        """The batch that an update works on: all updates, divided among the batches as evenly as possible."""
        return update * self.batches // (self.synthesis_steps * self.updates)

    def distil(self, optimizer):
        """One update of the student on images drawn from the bank."""
        bank = self.bank.flatten(0, 1)
        images = bank[torch.randint(len(bank), (len(self.images),), device=bank.device)]
        images = self.shifted(images.contiguous(memory_format=torch.channels_last))
        with torch.no_grad():
            teacher = self.ctx.teacher(images)
        terms = {"kd": soft_cross_entropy(self.student(images).logits, teacher.logits, self.temperature)}
        descend(optimizer, terms["kd"])
        return terms

    def shifted(self, images):
        """The images [B, C, H, W], all rolled by one random shift of at most `jitter` pixels each way."""
        shifts = torch.randint(-self.jitter, self.jitter + 1, (2,)).tolist()
        return images.roll(shifts, (2, 3))


def feature_difference(network, images):
    """The network's outputs on images [B, C, H, W], and the L2 distances of the mean and variance of each BatchNorm
    layer's input to the layer's running ones, summed over the layers."""
    differences = [images.new_zeros(())]

    def compare(layer, inputs, _):
        x = inputs[0].float()
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        differences.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    hooks = [layer.register_forward_hook(compare) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    try:
        return network(images), sum(differences)
    finally:
        for hook in hooks:
            hook.remove()


def total_variation(images):  # [B, C, H, W]
    """The L2 norms of the differences to the neighbouring pixels right, below and on both diagonals, summed."""
    return (
        (images[:, :, :, 1:] - images[:, :, :, :-1]).norm() + (images[:, :, 1:] - images[:, :, :-1]).norm()
        + (images[:, :, 1:, 1:] - images[:, :, :-1, :-1]).norm()
        + (images[:, :, 1:, :-1] - images[:, :, :-1, 1:]).norm()
    )
