import torch

from kdbench.method import Method, Paper, descend
from kdbench.parts.generator import ImageGenerator, anneal
from kdbench.parts.losses import attention_loss, soft_cross_entropy
from kdbench.parts.stages import pair_stages

MAX_NORM = 5.0  # L2 norm that gradients are clipped to


class ZSKT(Method):
    """A generator looks for images on which the student's predictions differ from the teacher's, and the student learns
    the teacher's predictions and attention maps on them ("zero-shot knowledge transfer"). No training image is seen.

    generator: -KL(teacher || student)
    student:   KL(teacher || student) + beta sum over stages of mean((Q_S - Q_T)^2), Q the attention maps of `at`

    One step is one batch of latent vectors: `generator_steps` updates of the generator, then `student_steps` of the
    student on the images that it now makes of them (paper: 1 to 10), gradients clipped to norm 5, the generator's rate
    annealed. As in `at`, the squared difference is averaged (code), not its norm summed (paper). The code also divides
    the divergence by the number of classes, which makes its beta weigh more; we average over the batch, as the
    equation does. Ours: their generator is 64 wide, which costs 16 times as much.
    """

    name, family = "zskt", "data_free"
    needs_data = False
    paper = Paper(
        title="Zero-shot Knowledge Transfer via Adversarial Belief Matching",
        authors=("Paul Micaelli", "Amos Storkey"), year=2019, venue="NeurIPS", arxiv="1905.09768",
    )
    ranges = {"beta": (0.0, 10000.0), "generator_lr": (1e-5, 1.0), "generator_steps": (1, 10),
              "student_steps": (1, 50), "latent_dim": (1, 4096), "width": (1, 512)}

    def __init__(self, ctx, *, beta: float = 250.0, generator_lr: float = 1e-3, generator_steps: int = 1,
                 student_steps: int = 10, latent_dim: int = 100, width: int = 16):
        super().__init__(ctx)
        self.beta, self.generator_lr = beta, generator_lr
        self.generator_steps, self.student_steps = generator_steps, student_steps
        self.generator = ImageGenerator(latent_dim, ctx.image_shape, width)

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr),
        }

    def step(self, batch, optimizers):
        anneal(optimizers["generator"], self.generator_lr, self.progress)
        latent = self.generator.latent(self.ctx.batch_size)
        for _ in range(self.generator_steps):
            images = self.generator(latent)
            challenge = -soft_cross_entropy(self.student(images).logits, self.ctx.teacher(images).logits, 1.0)
            descend(optimizers["generator"], challenge, clip=MAX_NORM)
        with torch.no_grad():
            images = self.generator(latent)
            teacher = self.ctx.teacher(images)
        for _ in range(self.student_steps):
            terms = self.student_terms(self.student(images), teacher)
            descend(optimizers["main"], sum(terms.values()), clip=MAX_NORM)
        return {**terms, "generator": challenge}

    def student_terms(self, student, teacher):
        pairs = pair_stages(student.stages, teacher.stages)
        return {
            "kl": soft_cross_entropy(student.logits, teacher.logits, 1.0),
            "attention": self.beta * sum(attention_loss(s, t) for s, t in pairs),
        }
