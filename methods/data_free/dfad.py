import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper, descend
from kdbench.parts.generator import ImageGenerator, anneal


class DFAD(Method):
    """A generator makes images on which student and teacher disagree, and the student learns to agree on them. No
    training image is seen.

    student:   |student - teacher|_1, of the logits, averaged over images and classes
    generator: minus the same

    One step is `student_steps` updates of the student, each on new images, then one of the generator, as in the
    authors' code (paper: k = 5). Latent size and the plain L1 are the authors' for MNIST; their generator's weaker
    -log(1 + L1) is for segmentation alone. Ours, for short runs: the generator's rate is a twentieth of theirs, so that
    the student can follow, and the student's is `student_scale` times the recipe's, since the L1 of K classes has a
    gradient of 1/K.
    """

    name, family = "dfad", "data_free"
    needs_data = False
    paper = Paper(
        title="Data-Free Adversarial Distillation",
        authors=("Gongfan Fang", "Jie Song", "Chengchao Shen", "Xinchao Wang", "Da Chen", "Mingli Song"),
        year=2019, venue="arXiv", arxiv="1912.11006",
    )
    ranges = {"generator_lr": (1e-5, 1e-1), "student_steps": (1, 20), "latent_dim": (8, 1024),
              "width": (1, 512), "student_scale": (0.01, 100.0)}

    def __init__(self, ctx, *, generator_lr: float = 5e-5, student_steps: int = 5,
                 latent_dim: int = 100, width: int = 16, student_scale: float = 4.0):
        super().__init__(ctx)
        self.student_scale, self.generator_lr, self.student_steps = student_scale, generator_lr, student_steps
        self.generator = ImageGenerator(latent_dim, ctx.image_shape, width)

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters(), scale=self.student_scale),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr),
        }

    def step(self, batch, optimizers):
        anneal(optimizers["generator"], self.generator_lr, self.progress)
        for _ in range(self.student_steps):
            with torch.no_grad():
                images = self.generator.sample(self.ctx.batch_size)
            disagreement = self.disagreement(images)
            descend(optimizers["main"], disagreement)
        challenge = -self.disagreement(self.generator.sample(self.ctx.batch_size))
        descend(optimizers["generator"], challenge)
        return {"student": disagreement, "generator": challenge}

    def disagreement(self, images):
        """The mean absolute difference of the student's and the teacher's logits on images [B, C, H, W]."""
        return F.l1_loss(self.student(images).logits, self.ctx.teacher(images).logits)
