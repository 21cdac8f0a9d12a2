import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.bank import distill_on, shifted
from kdbench.parts.generator import ImageGenerator
from kdbench.parts.losses import decision_disagreement
from kdbench.parts.statistics import batch_norms, moment_difference, moments, running_moments, with_inputs


def contrastive_loss(local, whole, new, temperature):
    """How badly the `whole` view of each image is found among those of all, given its `local` view: cross-entropies of
    similarities over the temperature, averaged over the first `new` images, plus their average over the others. Views
    are vectors of norm 1, [N, D]; no gradient flows into the whole ones."""
    similarities = local @ whole.detach().T / temperature
    losses = F.cross_entropy(similarities, torch.arange(len(local), device=local.device), reduction="none")
    return losses[:new].mean() + (losses[new:].mean() if len(local) > new else 0.0)


class CMI(Method):
    """Contrastive model inversion: images of each class whose statistics in the teacher's BatchNorm layers are those of
    the training images, and which can be told from all images made before, so that they differ. The student is
    distilled on the images that exist so far. No training image is seen.

    images:  feature R + one_hot CE(teacher, class) - adversarial KL(teacher || student) where both agree on the class
             + contrast C,  R = sum over BatchNorm layers of |mean - running mean|_2 + |variance - running variance|_2
    student: temperature^2 KL(teacher || student)

    C is the contrastive loss between a view of the whole image and one of a part, described by the means of the
    teacher's stages and a head of two layers that is trained with the images; `negatives` images made before take part.
    Each step is one update of the student, on images drawn from all that exist. `batches` batches are made at even
    intervals over the run, the first one in step 0, at most one in a step. For each, a new generator and new latent
    vectors get `iterations` updates by Adam; the images kept are those of the smallest loss.

    The defaults are the authors' for CIFAR-10: a batch of 256 for each of 200 epochs of 400 updates of the student.
    They describe images by the stages for ResNet-34, else by the inputs of all BatchNorm layers; and keep the last
    40,960 of them, we all. Ours: the generator of the other methods here, which ends in BatchNorm, theirs in a sigmoid;
    and one random shift of at most `jitter` pixels each way for all whole views of a batch, and one window of half to
    all of the side for all parts, which are enlarged to the image's size; theirs are drawn for each image, and some
    mirrored. A teacher without BatchNorm is inverted by the other terms alone.
    """

    name, family = "cmi", "data_free"
    needs_data = False
    conditions = ("BatchNorm statistics",)
    paper = Paper(
        title="Contrastive Model Inversion for Data-Free Knowledge Distillation",
        authors=("Gongfan Fang", "Jie Song", "Xinchao Wang", "Chengchao Shen", "Xingen Wang", "Mingli Song"),
        year=2021, venue="IJCAI", arxiv="2105.08584",
    )
    ranges = {"batches": (1, 100000), "iterations": (1, 20000), "generator_lr": (1e-5, 1e-1), "feature": (0.0, 1000.0),
              "one_hot": (0.0, 100.0), "adversarial": (0.0, 100.0), "contrast": (0.0, 100.0),
              "contrast_temperature": (0.01, 1.0), "negatives": (0, 65536), "head_dim": (1, 1024),
              "temperature": (1.0, 50.0), "jitter": (0, 32), "latent_dim": (1, 4096), "width": (1, 512)}
    needs_images = True

    def __init__(self, ctx, *, batches: int = 200, iterations: int = 200, generator_lr: float = 1e-3,
                 feature: float = 1.0, one_hot: float = 1.0, adversarial: float = 0.5, contrast: float = 0.8,
                 contrast_temperature: float = 0.2, negatives: int = 4096, head_dim: int = 256,
                 temperature: float = 20.0, jitter: int = 4, latent_dim: int = 256, width: int = 64):
        super().__init__(ctx)
        self.batches, self.iterations, self.generator_lr = min(batches, ctx.steps), iterations, generator_lr
        self.feature, self.one_hot, self.adversarial, self.contrast = feature, one_hot, adversarial, contrast
        self.contrast_temperature, self.negatives, self.temperature = contrast_temperature, negatives, temperature
        self.jitter, self.latent_dim, self.width = jitter, latent_dim, width
        self.layers = batch_norms(ctx.teacher)
        described = sum(channels for channels, _, _ in ctx.teacher_shapes.stages)
        self.head = nn.Sequential(nn.Linear(described, described), nn.ReLU(), nn.Linear(described, head_dim))
        self.register_buffer("bank", torch.zeros(self.batches, ctx.batch_size, *ctx.image_shape))
        self.register_buffer("memory", torch.zeros(self.batches, ctx.batch_size, 2, described))  # local and whole views

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()),
            "head": torch.optim.Adam(self.head.parameters(), lr=self.generator_lr),
        }

    def made(self, step):
        """How many batches of images exist after that step."""
        return 1 + step * self.batches // self.ctx.steps if step >= 0 else 0

    def rare_steps(self):
        return [step for step in range(self.ctx.steps) if self.made(step) > self.made(step - 1)]

    def step(self, batch, optimizers):
        made, before = self.made(self.step_index), self.made(self.step_index - 1)
        terms = self.synthesise(before, optimizers["head"]) if made > before else {}
        learned = distill_on(self.bank[:made].flatten(0, 1), self, optimizers["main"], self.jitter, self.temperature)
        return {**terms, **learned}

    def synthesise(self, number, head_optimizer):
        """Make the batch of that number, and train the head with it. Returns the terms of the last update."""
        device, count = self.bank.device, self.ctx.batch_size
        generator = ImageGenerator(self.latent_dim, self.ctx.image_shape, self.width).to(device)
        latent = generator.latent(count).requires_grad_()
        classes = torch.randint(self.ctx.num_classes, (count,)).to(device)
        made = [*generator.parameters(), latent]
        optimizer = torch.optim.Adam(made, lr=self.generator_lr, betas=(0.5, 0.999))
        leaves, least = [*made, *self.head.parameters()], float("inf")
        self.student.eval()
        for _ in range(self.iterations):
            images = generator(latent)
            terms, views = self.image_terms(images, classes, self.memory[:number].flatten(0, 1))
            loss = sum(terms.values())
            if loss.item() < least:
                least, self.bank[number], self.memory[number] = loss.item(), images.detach(), views
            for leaf, slope in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                leaf.grad = slope  # not of the student's weights
            optimizer.step()
            head_optimizer.step()
        self.student.train()
        return {name: term.detach() for name, term in terms.items()}

    def image_terms(self, images, classes, memory):
        """The terms of the loss of images [B, C, H, W] that shall be of the classes [B] and differ from those whose
        views are in the memory [M, 2, D]; and their own views [B, 2, D], without a gradient."""
        whole = shifted(images, self.jitter)
        teacher, given = with_inputs(self.ctx.teacher, self.layers, whole)
        views = torch.stack([described(self.ctx.teacher(self.part(images))), described(teacher)], dim=1)
        chosen = torch.randperm(len(memory))[:self.negatives].to(memory.device)
        local, seen = F.normalize(self.head(torch.cat([views, memory[chosen]])), dim=2).unbind(dim=1)
        terms = {
            "one_hot": self.one_hot * F.cross_entropy(teacher.logits, classes),
            "contrast": self.contrast * contrastive_loss(local, seen, len(images), self.contrast_temperature),
        }
        if self.layers:
            difference = moment_difference(moments(given), running_moments(self.layers),
                                           [layer.num_features for layer in self.layers])
            terms["feature"] = self.feature * difference
        if self.adversarial:
            disagreement = decision_disagreement(self.student(whole).logits, teacher.logits)
            terms["adversarial"] = -self.adversarial * disagreement
        return terms, views.detach()

    def part(self, images):
        """One random window of the images [B, C, H, W], of half to all of their sides, enlarged to their size."""
        share, *places = torch.rand(3).tolist()
        size = images.shape[2:]
        sides = [max(1, round(length * (1 + share) / 2)) for length in size]
        top, left = (int(place * (length - side + 1)) for place, length, side in zip(places, size, sides, strict=True))
        return F.interpolate(images[:, :, top:top + sides[0], left:left + sides[1]], size)


def described(outputs):
    """The means of all stages of a network's outputs over their positions: [B, sum of C_i]."""
    return torch.cat([stage.mean((2, 3)) for stage in outputs.stages], dim=1)
