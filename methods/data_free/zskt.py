import torch

from kdbench.method import Method, Paper, descend
from kdbench.parts.generator import ImageGenerator, anneal
from kdbench.parts.losses import attention_loss, soft_cross_entropy
from kdbench.parts.stages import pair_stages

MAX_NORM = 5.0  # L2 norm that gradients are clipped to: those of the student, and the generator's over the classes


class ZSKT(Method):
    """A generator looks for images on which the student's predictions differ from the teacher's, and the student learns
    the teacher's predictions and attention maps on them ("zero-shot knowledge transfer"). No training image is seen.

    generator: -KL(teacher || student)
    student:   KL(teacher || student) + beta K sum over stages of mean((Q_S - Q_T)^2), Q the attention maps of `at`

    Before the first and then every `student_steps`-th update of the student (paper: 10), a new batch of latent vectors
    is drawn and the generator gets `generator_steps` updates on it (paper: 1); the images that it then makes of them
    serve the next `student_steps` updates of the student, one a step. Gradients are clipped, and the generator's rate
    is annealed. The authors' scripts for CIFAR-10 take 80,000 such rounds, 800,000 updates of the
    student, in batches of 128.

    As in `at`, the squared difference is averaged (code), not its norm summed (paper). The code also divides the
    divergence by the number of classes K, and beta 250 is its weight beside that. We multiply the whole loss by K
    instead: to the authors' Adam a constant factor is nothing, to the recipe's SGD it would be a rate K times smaller.
    The generator's gradients are clipped to norm 5 K, which is 5 of their loss, and the student's to 5.
    """

    name, family = "zskt", "data_free"
    needs_data = False
    conditions = ("with at",)
    paper = Paper(
        title="Zero-shot Knowledge Transfer via Adversarial Belief Matching",
        authors=("Paul Micaelli", "Amos Storkey"), year=2019, venue="NeurIPS", arxiv="1905.09768",
    )
    needs_images = True
    ranges = {"beta": (0.0, 10000.0), "generator_lr": (1e-5, 1.0), "generator_steps": (1, 10),
              "student_steps": (1, 50), "latent_dim": (1, 4096), "width": (1, 512)}

    def __init__(self, ctx, *, beta: float = 250.0, generator_lr: float = 1e-3, generator_steps: int = 1,
                 student_steps: int = 10, latent_dim: int = 100, width: int = 64):
        super().__init__(ctx)
        self.beta, self.generator_lr = beta, generator_lr
        self.generator_steps, self.student_steps = generator_steps, student_steps
        self.generator = ImageGenerator(latent_dim, ctx.image_shape, width)
        # Buffers, so that a run that goes on from a checkpoint asks the teacher no more often than one in one piece.
        self.register_buffer("images", empty(ctx.batch_size, ctx.image_shape))
        self.register_buffer("logits", torch.zeros(ctx.batch_size, ctx.num_classes))  # the teacher's of `images`
        for place, shape in enumerate(ctx.teacher_shapes.stages):
            self.register_buffer(f"stage_{place}", empty(ctx.batch_size, shape))

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr),
        }

    def step(self, batch, optimizers):
        challenge = self.renew(optimizers["generator"]) if self.step_index % self.student_steps == 0 else {}
        stages = [getattr(self, f"stage_{place}") for place in range(len(self.ctx.teacher_shapes.stages))]
        terms = self.student_terms(self.student(self.images), self.logits, stages)
        descend(optimizers["main"], sum(terms.values()), clip=MAX_NORM)
        return {**terms, **challenge}

    def renew(self, optimizer):
        """Train the generator on new latent vectors, and keep the images that it then makes of them."""
        anneal(optimizer, self.generator_lr, self.progress)
        latent = self.generator.latent(self.ctx.batch_size)
        self.student.requires_grad_(False)  # the gradient passes through the student, to the generator alone
        for _ in range(self.generator_steps):
            images = self.generator(latent)
            challenge = -soft_cross_entropy(self.student(images).logits, self.ctx.teacher(images).logits, 1.0)
            descend(optimizer, challenge, clip=MAX_NORM * self.ctx.num_classes)
        self.student.requires_grad_(True)
        with torch.no_grad():
            self.images.copy_(self.generator(latent))
            answers = self.ctx.teacher(self.images)
            self.logits.copy_(answers.logits)
            for place, stage in enumerate(answers.stages):
                getattr(self, f"stage_{place}").copy_(stage)
        return {"generator": challenge}

    def student_terms(self, student, logits, stages):
        pairs = pair_stages(student.stages, stages)
        return {
            "kl": soft_cross_entropy(student.logits, logits, 1.0),
            "attention": self.beta * self.ctx.num_classes * sum(attention_loss(s, t) for s, t in pairs),
        }


def empty(batch_size, shape):
    return torch.zeros(batch_size, *shape).contiguous(memory_format=torch.channels_last)
