"""Adversarial examples, found by projected gradient ascent (PGD)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdbench.parts.losses import soft_cross_entropy


def projected_gradient(
    images: Tensor,        # [B, C, H, W], normalised
    objective: Callable[[Tensor], Tensor],  # maps images to the scalar that the attack raises
    pixel_low: Tensor,     # [1, C, 1, 1], the normalised value of a black pixel
    pixel_high: Tensor,    # [1, C, 1, 1], the normalised value of a white pixel
    *,
    epsilon: float,        # radius of the L-infinity ball, for pixels scaled to 0..1
    step_size: float,      # for pixels scaled to 0..1
    steps: int,
    start: Tensor,         # [B, C, H, W], the first perturbation, for pixels scaled to 0..1
) -> Tensor:
    """Normalised images [B, C, H, W] near `images` that raise `objective`, without gradients.

    Each step follows the sign of the objective's gradient; the result stays within `epsilon` of the images and between
    black and white (Madry et al., ICLR 2018).
    """
    images, scale = images.detach(), pixel_high - pixel_low
    lowest, highest = ball(images, pixel_low, pixel_high, epsilon)
    attacked = torch.clamp(images + start * scale, lowest, highest)
    for _ in range(steps):
        attacked.requires_grad_()
        with torch.enable_grad():
            gradient, = torch.autograd.grad(objective(attacked), attacked)
        attacked = torch.clamp(attacked.detach() + step_size * scale * gradient.sign(), lowest, highest)
    return attacked


def diverging(student: nn.Module, images: Tensor, logits: Tensor, pixel_low: Tensor, pixel_high: Tensor, *,
              epsilon: float, step_size: float, steps: int) -> Tensor:
    """Normalised images [B, C, H, W] near `images` that raise the divergence of the student's predictions from `logits`
    [B, K]. The attack starts from Gaussian noise with standard deviation 0.001, for pixels scaled to 0..1. It puts the
    student into eval mode, and afterwards into training mode."""
    student.eval()
    attacked = projected_gradient(
        images, lambda images: soft_cross_entropy(student(images).logits, logits, 1.0), pixel_low, pixel_high,
        epsilon=epsilon, step_size=step_size, steps=steps, start=0.001 * torch.randn_like(images))
    student.train()
    return attacked


def ball(images: Tensor, pixel_low: Tensor, pixel_high: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The lowest and the highest values that attacked images may have, each [B, C, H, W]: within `epsilon` of the
    images, for pixels scaled to 0..1, and between black and white."""
    radius = epsilon * (pixel_high - pixel_low)
    return torch.maximum(images - radius, pixel_low), torch.minimum(images + radius, pixel_high)
