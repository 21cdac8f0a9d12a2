import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import attention_loss, soft_cross_entropy
from kdbench.parts.stages import pool, projection


class Fusion(nn.Module):
    """The weighted mean of feature maps of one shape, with learnt weights that are not negative, then two depthwise
    separable convolutions."""

    def __init__(self, inputs, channels):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        self.layers = nn.Sequential(*separable(channels), nn.ReLU(), *separable(channels), nn.ReLU())

    def forward(self, *maps):
        weights = F.relu(self.weights)
        weights = weights / (weights.sum() + 1e-6)
        return self.layers(sum(weight * each for weight, each in zip(weights, maps, strict=True)))


def separable(channels):
    """A depthwise 3x3 convolution, a 1x1 convolution and BatchNorm, all of `channels`."""
    return (nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


def lateral(channels_in, channels_out):
    """A 1x1 convolution, BatchNorm and ReLU."""
    return nn.Sequential(projection(channels_in, channels_out), nn.ReLU())


def resample(stage, size):
    """A stage [B, C, H, W] at another `size` (height, width): pooled if it is smaller, else its positions repeated."""
    return pool(stage, size) if size[0] * size[1] < stage.shape[2] * stage.shape[3] else F.interpolate(stage, size)


class SelfTeacher(nn.Module):
    """Refines the stages of a network: a path from the deepest stage to the shallowest and one back, as in BiFPN, and a
    classifier on the last map. Maps are `width` times as wide as their stages."""

    def __init__(self, shapes, num_classes, width):  # shapes: (C, H, W), shallow to deep
        super().__init__()
        self.sizes = [shape[1:] for shape in shapes]
        stages = [shape[0] for shape in shapes]
        wide = [width * channels for channels in stages]
        last = len(shapes) - 1
        self.enter = nn.ModuleList(map(lateral, stages, wide))
        self.enter_again = nn.ModuleList(map(lateral, stages[1:], wide[1:]))
        self.from_deeper = nn.ModuleList(map(lateral, wide[1:], wide[:-1]))
        self.from_shallower = nn.ModuleList(map(lateral, wide[:-1], wide[1:]))
        self.top_down = nn.ModuleList(Fusion(2, channels) for channels in wide[:-1])
        self.bottom_up = nn.ModuleList(
            Fusion(2 if i == last else 3, channels) for i, channels in enumerate(wide) if i > 0)
        self.classifier = nn.Linear(wide[-1], num_classes)

    def forward(self, stages):
        """The refined maps, each of its stage's resolution, and the logits [B, K], from stages shallow to deep."""
        entered = [layer(stage) for layer, stage in zip(self.enter, stages, strict=True)]
        down = [entered[-1]]  # deepest last
        for i in reversed(range(len(stages) - 1)):
            deeper = resample(self.from_deeper[i](down[0]), self.sizes[i])
            down.insert(0, self.top_down[i](entered[i], deeper))
        refined = [down[0]]
        for i in range(1, len(stages)):
            shallower = resample(self.from_shallower[i - 1](refined[-1]), self.sizes[i])
            middle = () if i == len(stages) - 1 else (down[i],)
            refined.append(self.bottom_up[i - 1](self.enter_again[i - 1](stages[i]), *middle, shallower))
        return refined, self.classifier(refined[-1].mean((2, 3)))


class FRSKD(Method):
    """An auxiliary network on the student's own stages, a feature pyramid, refines them and learns the labels. The
    student learns its softened predictions and where its refined maps attend; at inference it is dropped.

    loss = CE(student, labels) + CE(pyramid, labels) + alpha temperature^2 KL(pyramid || student)
           + beta sum over stages of mean((Q_S - Q_P)^2),  Q the attention maps of `at`

    No gradient flows into the pyramid's outputs from the last two terms; its own cross-entropy trains the student's
    stages as well. As in the authors' code the pyramid (BiFPN) has two lateral layers per stage, one path down and one
    up with learnt weights of the sums, depthwise separable convolutions and twice the channels. alpha 2, beta 100 and
    temperature 4 are its README's for ResNet-18 on CIFAR-100, whose last stage is 4 x 4. For stages of other sizes take
    beta = 100 H W / 16 of the last one, as explained in `at`. Maps are reduced by average pooling, there by maximum
    pooling, after the 1x1 convolution that changes their channels, there before it.
    """

    name, family = "frskd", "self"
    paper = Paper(
        title="Refine Myself by Teaching Myself: Feature Refinement via Self-Knowledge Distillation",
        authors=("Mingi Ji", "Seungjae Shin", "Seunghyun Hwang", "Gibeom Park", "Il-Chul Moon"),
        year=2021, venue="CVPR", arxiv="2103.08273",
    )
    ranges = {"alpha": (0.0, 4.0), "beta": (0.0, 1000.0), "temperature": (1.0, 10.0), "width": (1, 4)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 2.0, beta: float = 100.0, temperature: float = 4.0, width: int = 2):
        super().__init__(ctx)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.pyramid = SelfTeacher(ctx.student_shapes.stages, ctx.num_classes, width)

    @classmethod
    def inapplicable(cls, student, teacher):
        return None if len(student.stages) > 1 else "the student has one stage: a pyramid needs several"

    def losses(self, batch, student, teacher):
        refined, logits = self.pyramid(student.stages)
        attention = sum(attention_loss(stage, better.detach())
                        for stage, better in zip(student.stages, refined, strict=True))
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "pyramid": F.cross_entropy(logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, logits.detach(), self.temperature),
            "attention": self.beta * attention,
        }
