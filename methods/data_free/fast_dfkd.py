import copy

import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.bank import distill_on, shifted
from kdbench.parts.generator import ImageGenerator
from kdbench.parts.losses import decision_disagreement
from kdbench.parts.statistics import batch_norms, moment_difference, moments, running_moments, with_inputs

BETAS = (0.5, 0.999)  # of the generator's Adam


class FastDFKD(Method):
    """Images of each class whose statistics in the teacher's BatchNorm layers are those of the training images, made by
    a generator in very few updates: it learns, over the run, to start where a few updates suffice (meta-learning). The
    student is distilled on the images that exist so far. No training image is seen.

    images:  feature R + one_hot CE(teacher, class) - adversarial KL(teacher || student) where both agree on the class,
             R = sum over BatchNorm layers of |running mean - m|_2 + |running variance - v|_2,
             m = (1 - momentum) mean + momentum (m of the batches before), v likewise
    student: temperature^2 KL(teacher || student)

    Each step is one update of the student, on images drawn from all that exist. `warmup` batches of images are made
    before the first of them, without the adversarial term, the other `batches` at even intervals over the run, at most
    one in a step. For each, a copy of the generator and new latent vectors get `iterations` updates by Adam; the images
    kept are those of the smallest loss. The generator itself then gets one update, at `iterations` times the rate, with
    the sum of the copy's gradients (first-order MAML).

    The defaults are the authors' for WRN-40-2 on CIFAR with five iterations: a batch of 256 for each of 200 epochs of
    400 updates, after 20 without. Left out: their reset of the generator's first layer after 120 epochs. Ours: the
    generator of the other methods here, which ends in BatchNorm, theirs in a sigmoid; and all images of a batch are
    shifted by one random step of at most `jitter` pixels each way, both when they are made and when they are learned
    from; theirs are cropped and flipped one by one. A teacher without BatchNorm is inverted by the other terms alone.
    """

    name, family = "fast_dfkd", "data_free"
    needs_data = False
    conditions = ("BatchNorm statistics",)
    paper = Paper(
        title="Up to 100x Faster Data-Free Knowledge Distillation",
        authors=("Gongfan Fang", "Kanya Mo", "Xinchao Wang", "Jie Song", "Shitao Bei", "Haofei Zhang", "Mingli Song"),
        year=2022, venue="AAAI", arxiv="2112.06253",
    )
    ranges = {"batches": (1, 100000), "warmup": (1, 1000), "iterations": (1, 1000), "generator_lr": (1e-5, 1e-1),
              "latent_lr": (1e-5, 1.0), "feature": (0.0, 1000.0), "one_hot": (0.0, 100.0), "adversarial": (0.0, 100.0),
              "momentum": (0.0, 0.99), "temperature": (1.0, 50.0), "jitter": (0, 32), "latent_dim": (1, 4096),
              "width": (1, 512)}
    needs_images = True

    def __init__(self, ctx, *, batches: int = 200, warmup: int = 20, iterations: int = 5, generator_lr: float = 3e-3,
                 latent_lr: float = 0.01, feature: float = 10.0, one_hot: float = 0.4, adversarial: float = 1.1,
                 momentum: float = 0.9, temperature: float = 20.0, jitter: int = 4, latent_dim: int = 256,
                 width: int = 64):
        super().__init__(ctx)
        self.warmup, self.batches = warmup, min(batches, ctx.steps)
        self.iterations, self.generator_lr, self.latent_lr = iterations, generator_lr, latent_lr
        self.feature, self.one_hot, self.adversarial, self.momentum = feature, one_hot, adversarial, momentum
        self.temperature, self.jitter = temperature, jitter
        self.generator = ImageGenerator(latent_dim, ctx.image_shape, width)
        self.layers = batch_norms(ctx.teacher)
        self.channels = [layer.num_features for layer in self.layers]
        self.register_buffer("past", torch.zeros(2, sum(self.channels)))  # m and v of the batches so far
        self.register_buffer("bank", torch.zeros(warmup + self.batches, ctx.batch_size, *ctx.image_shape))

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr * self.iterations,
                                          betas=BETAS),
        }

    def made(self, step):
        """How many batches of images exist after that step."""
        return self.warmup + 1 + step * self.batches // self.ctx.steps if step >= 0 else 0

    def step(self, batch, optimizers):
        made, terms = self.made(self.step_index), {}
        for number in range(self.made(self.step_index - 1), made):
            terms = self.synthesise(number, optimizers["generator"])
        learned = distill_on(self.bank[:made].flatten(0, 1), self, optimizers["main"], self.jitter, self.temperature)
        return {**terms, **learned}

    def synthesise(self, number, optimizer):
        """Make the batch of that number, and train the generator to begin the next one better. Returns the terms of the
        last update of its copy."""
        generator, device = copy.deepcopy(self.generator), self.bank.device
        latent = self.generator.latent(self.ctx.batch_size).requires_grad_()
        classes = torch.randint(self.ctx.num_classes, (self.ctx.batch_size,)).to(device)
        leaves = [*generator.parameters(), latent]
        inner = torch.optim.Adam([{"params": leaves[:-1]}, {"params": [latent], "lr": self.latent_lr}],
                                 lr=self.generator_lr, betas=BETAS)
        gradients, least = [torch.zeros_like(leaf) for leaf in leaves], float("inf")
        self.student.eval()
        for _ in range(self.iterations):
            images = generator(latent)
            terms, found = self.image_terms(shifted(images, self.jitter), classes, number)
            loss = sum(terms.values())
            if loss.item() < least:
                least, self.bank[number] = loss.item(), images.detach()
            slopes = torch.autograd.grad(loss, leaves)  # not of the student's weights
            for leaf, gradient in zip(leaves, slopes, strict=True):
                leaf.grad = gradient
            gradients = [total + gradient for total, gradient in zip(gradients, slopes, strict=True)]
            inner.step()
        self.student.train()
        self.past = found if number == 0 else torch.lerp(found, self.past, self.momentum)
        for parameter, gradient in zip(self.generator.parameters(), gradients[:-1], strict=True):
            parameter.grad = gradient
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def image_terms(self, images, classes, number):
        """The terms of the loss of images [B, C, H, W] that shall be of the classes [B], in the batch of that number;
        and the moments that they have."""
        teacher, given = with_inputs(self.ctx.teacher, self.layers, images)
        terms = {"one_hot": self.one_hot * F.cross_entropy(teacher.logits, classes)}
        found = self.past
        if self.layers:
            found = moments(given)
            mixed = torch.lerp(found, self.past, self.momentum) if number else found
            terms["feature"] = self.feature * moment_difference(mixed, running_moments(self.layers), self.channels)
        if number >= self.warmup and self.adversarial:
            disagreement = decision_disagreement(self.student(images).logits, teacher.logits)
            terms["adversarial"] = -self.adversarial * disagreement
        return terms, found.detach()
