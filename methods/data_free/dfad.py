import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper, descend
from kdbench.parts.generator import ImageGenerator, anneal


class DFAD(Method):
    """A generator makes images on which student and teacher disagree, and the student learns to agree on them. No
    training image is seen.

    student:   |student - teacher|_1, of the logits, averaged over images and classes
    generator: minus the same

    Each step is one update of the student on new images; after every `student_steps` of them (paper: k = 5) the
    generator gets one. The authors' script for CIFAR takes 125,000 updates of the student in batches of 256, that for
    MNIST 10,000 in batches of 512. Latent size (256 for CIFAR), rates and the plain L1 are those of their scripts; the
    generator's weaker -log(1 + L1) is for segmentation alone. They lower both rates in steps, we anneal the
    generator's.

    The student's rate is `student_scale` times the recipe's. The gradient of the L1 is 1/K for each of K logits, which
    a short run makes up for by a scale above 1; it also needs a lower rate of the generator, or the student cannot
    follow it.
    """

    name, family = "dfad", "data_free"
    needs_data = False
    paper = Paper(
        title="Data-Free Adversarial Distillation",
        authors=("Gongfan Fang", "Jie Song", "Chengchao Shen", "Xinchao Wang", "Da Chen", "Mingli Song"),
        year=2019, venue="arXiv", arxiv="1912.11006",
    )
    needs_images = True
    ranges = {"generator_lr": (1e-5, 1e-1), "student_steps": (1, 20), "latent_dim": (8, 1024),
              "width": (1, 512), "student_scale": (0.01, 100.0)}

    def __init__(self, ctx, *, generator_lr: float = 1e-3, student_steps: int = 5,
                 latent_dim: int = 100, width: int = 64, student_scale: float = 1.0):
        super().__init__(ctx)
        self.student_scale, self.generator_lr, self.student_steps = student_scale, generator_lr, student_steps
        self.generator = ImageGenerator(latent_dim, ctx.image_shape, width)

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters(), scale=self.student_scale),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr),
        }

    def step(self, batch, optimizers):
        with torch.no_grad():
            images = self.generator.sample(self.ctx.batch_size)
        terms = {"student": self.disagreement(images)}
        descend(optimizers["main"], terms["student"])
        if (self.step_index + 1) % self.student_steps == 0:
            terms["generator"] = self.challenge(optimizers["generator"])
        return terms

    def challenge(self, optimizer):
        """One update of the generator, towards images on which student and teacher disagree more."""
        anneal(optimizer, self.generator_lr, self.progress)
        self.student.requires_grad_(False)  # the gradient passes through the student, to the generator alone
        challenge = -self.disagreement(self.generator.sample(self.ctx.batch_size))
        descend(optimizer, challenge)
        self.student.requires_grad_(True)
        return challenge

    def disagreement(self, images):
        """The mean absolute difference of the student's and the teacher's logits on images [B, C, H, W]."""
        return F.l1_loss(self.student(images).logits, self.ctx.teacher(images).logits)
