"""Pure functions that several methods share. A loss is a scalar, averaged over the batch unless it says otherwise."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.parts.stages import match_resolution


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log P(real | real) - log P(fake | fake), of the discriminator's scores before the sigmoid (any shape)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def fooling_loss(fake: Tensor) -> Tensor:
    """-log P(real | fake): what a generator descends (the non-saturating form of Goodfellow et al., 2014)."""
    return F.softplus(-fake).mean()


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """temperature^2 x KL(teacher || student) of the softened classes, averaged over the batch.

    Both logits are [B, K]. The squared temperature keeps the gradient's size as the temperature changes
    (Hinton et al., 2015, section 2).
    """
    student_log = F.log_softmax(student_logits / temperature, dim=1)
    teacher_log = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


def non_target(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of all classes but each sample's own: [B, K] and [B] to [B, K - 1]."""
    classes = logits.shape[1]
    others = (labels[:, None] + torch.arange(1, classes, device=labels.device)) % classes
    return logits.gather(1, others)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two stages' attention maps (Zagoruyko & Komodakis, 2017); each stage is [B, C, H, W],
    of any C, and the larger is pooled to the smaller."""
    student, teacher = match_resolution(student, teacher)
    return (attention_map(student) - attention_map(teacher)).pow(2).mean()


def attention_map(stage: Tensor) -> Tensor:
    """Where a stage [B, C, H, W] is active: the channels' mean square, of L2 norm 1 over the positions, [B, HW]."""
    return F.normalize(stage.pow(2).mean(1).flatten(1))
