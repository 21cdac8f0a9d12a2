import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper, descend
from kdbench.parts.generator import ImageGenerator
from kdbench.parts.losses import soft_cross_entropy


class DAFL(Method):
    """A generator makes images to which the teacher responds as to training images: with confidence in one class, with
    strong activations, and with all classes equally often. The student learns the teacher's predictions for them; no
    training image is seen.

    student:   temperature^2 KL(teacher || student)
    generator: one_hot CE(teacher, its own top class) - activation |embedding|_1 - balance H(mean probabilities)

    Each step is one batch of new images, and one update of both networks. As in the authors' code the embedding's norm
    is averaged over its features and the entropy is in base 10. The defaults are those of the code's script for MNIST
    (24,000 updates in batches of 512). For CIFAR-10 its README gives one_hot 0.05, activation 0.01 and balance 5, for
    CIFAR-100 0.5, 0.1 and 20, for both latent_dim 1000 and generator_lr 0.02 (240,000 updates in batches of 1024).
    Their temperature is 1; with a higher one, ours, the student of a short run learns faster.
    """

    name, family = "dafl", "data_free"
    needs_data = False
    paper = Paper(
        title="Data-Free Learning of Student Networks",
        authors=("Hanting Chen", "Yunhe Wang", "Chang Xu", "Zhaohui Yang", "Chuanjian Liu", "Boxin Shi", "Chunjing Xu",
                 "Chao Xu", "Qi Tian"),
        year=2019, venue="ICCV", arxiv="1904.01186",
    )
    needs_images = True
    ranges = {"one_hot": (0.0, 10.0), "activation": (0.0, 10.0), "balance": (0.0, 50.0), "temperature": (1.0, 20.0),
              "generator_lr": (1e-5, 1.0), "latent_dim": (1, 4096), "width": (1, 512)}

    def __init__(self, ctx, *, one_hot: float = 1.0, activation: float = 0.1, balance: float = 5.0,
                 temperature: float = 1.0, generator_lr: float = 0.2, latent_dim: int = 100, width: int = 64):
        super().__init__(ctx)
        self.one_hot, self.activation, self.balance = one_hot, activation, balance
        self.temperature, self.generator_lr = temperature, generator_lr
        self.generator = ImageGenerator(latent_dim, ctx.image_shape, width)

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr),
        }

    def step(self, batch, optimizers):
        images = self.generator.sample(self.ctx.batch_size)
        teacher, student = self.ctx.teacher(images), self.student(images.detach())
        terms = {
            "kd": soft_cross_entropy(student.logits, teacher.logits.detach(), self.temperature),
            "one_hot": self.one_hot * F.cross_entropy(teacher.logits, teacher.logits.argmax(dim=1)),
            "activation": -self.activation * teacher.embedding.abs().mean(),
            "balance": -self.balance * class_entropy(teacher.logits),
        }
        descend(optimizers.values(), sum(terms.values()))  # kd reaches the student alone, the others the generator
        return terms


def class_entropy(logits):
    """The entropy, in base 10, of the mean class probabilities of logits [B, K]: largest if all classes are equally
    frequent."""
    mean = F.softmax(logits, dim=1).mean(dim=0)
    return torch.special.entr(mean.clamp_min(1e-12)).sum() / torch.log(mean.new_tensor(10.0))
