"""Loss functions that several methods share. A loss is a scalar, averaged over the batch unless its docstring says
otherwise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.parts.stages import match_resolution

# Logits.

def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """temperature^2 x KL(teacher || student) of the class probabilities at `temperature`. Both logits are [B, K].

    The squared temperature keeps the gradient's size as the temperature changes (Hinton et al., 2015, section 2).
    """
    student_log = F.log_softmax(student_logits / temperature, dim=1)
    teacher_log = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


def soft_cross_entropies(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The loss of `soft_cross_entropy` for each image by itself, [B]."""
    student_log = F.log_softmax(student_logits / temperature, dim=1)
    teacher_log = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)


def transformed_divergence(student_logits: Tensor, teacher_logits: Tensor, exponent: float) -> Tensor:
    """KL(q || student) for each sample, [B], where q_k is proportional to p_k^exponent and p are the teacher's
    probabilities. Both logits are [B, K]."""
    student, teacher = F.log_softmax(student_logits, dim=1), F.log_softmax(exponent * teacher_logits, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def labelled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of logits [B, K] with labels [B], averaged over the images that have a label and not NO_LABEL.
    Zero if no image has a label, where torch's own mean is NaN; else bit for bit the same as torch's."""
    labelled = (labels >= 0).sum()
    return F.cross_entropy(logits, labels, reduction="sum") / labelled.clamp(min=1)


def non_target(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits [B, K - 1] of all classes but each sample's own, from logits [B, K] and labels [B], in cyclic order
    from the class after the sample's own."""
    classes = logits.shape[1]
    others = (labels[:, None] + torch.arange(1, classes, device=labels.device)) % classes
    return logits.gather(1, others)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, others: Tensor, share: float) -> Tensor:
    """The cross-entropy of the logits [B, K] of images that are mixtures: `share` of each comes from an image of the
    class in `labels` [B], and the rest from one of the class in `others` [B]."""
    return share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, others)


def zipf_cross_entropy(logits: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """The cross-entropy -sum_k z_k log r_k over all classes but each sample's own: r are the renormalised probabilities
    of these classes, and z is their distribution by Zipf's law, z_k ~ 1 / rank_k. Logits and scores are [B, K], labels
    [B].

    The ranks are those of the scores among all classes, the sample's own included; equal scores share the best of their
    ranks. No gradient flows into the scores.
    """
    target = non_target(1 / ranks(scores).to(logits.dtype), labels)
    return F.cross_entropy(non_target(logits, labels), target / target.sum(dim=1, keepdim=True))


def ranks(scores: Tensor) -> Tensor:
    """The rank of each of the scores [B, K] within its row, from 1 for the largest; equal scores share the best of
    their ranks. Without gradients."""
    scores = scores.detach().contiguous()
    return 1 + scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, scores, right=True)


def decision_disagreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student), summed over the samples for which both predict the same class, and divided by the number
    of all samples. Both logits are [B, K]."""
    same = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    student_log, teacher_log = F.log_softmax(student_logits, dim=1), F.log_softmax(teacher_logits, dim=1)
    return (F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1) * same).mean()


# Stages.

def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference between the attention maps of two stages (Zagoruyko & Komodakis, 2017).

    The stages are [B, C_s, H_s, W_s] and [B, C_t, H_t, W_t]; the larger is average-pooled to the size of the smaller.
    """
    student, teacher = match_resolution(student, teacher)
    return (attention_map(student) - attention_map(teacher)).pow(2).mean()


def attention_map(stage: Tensor) -> Tensor:
    """The mean square over the channels of a stage [B, C, H, W] at each position, scaled to L2 norm 1 for each image:
    [B, HW]."""
    return F.normalize(stage.pow(2).mean(1).flatten(1))


# A discriminator's scores: logits of the class "real", of any shape.

def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The loss of a discriminator: -log P(real | real) - log P(fake | fake), each averaged over its scores."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def fooling_loss(fake: Tensor) -> Tensor:
    """The loss of a generator: -log P(real | fake), averaged over the scores (the non-saturating form of Goodfellow et
    al., 2014)."""
    return F.softplus(-fake).mean()


# Weights of losses.

def ramp(progress: float) -> float:
    """A weight that rises as exp(-5 (1 - progress)^2), from 0.007 at `progress` 0 to 1 at `progress` 1, and stays 1
    from there on (Laine & Aila, 2017)."""
    return math.exp(-5 * (1 - min(progress, 1)) ** 2)
