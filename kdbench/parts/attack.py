"""TODO."""

from collections.abc import Callable

import torch
from torch import Tensor


def projected_gradient(
    images: Tensor,        # [B, C, H, W], normalised
    objective: Callable[[Tensor], Tensor],  # images to the scalar that the attack raises
    pixel_low: Tensor,     # [1, C, 1, 1], what a black pixel is after normalisation
    pixel_high: Tensor,    # [1, C, 1, 1], a white one
    *,
    epsilon: float,        # radius of the L-infinity ball, for pixels in 0..1
    step_size: float,      # in the same unit
    steps: int,
    start: Tensor,         # [B, C, H, W], the first perturbation, in the same unit
) -> Tensor:
    """Images near `images` that raise `objective`: projected gradient ascent on the sign of the gradient, kept within
    `epsilon` of the images and between black and white (Madry et al., ICLR 2018)."""
    images, scale = images.detach(), pixel_high - pixel_low
    lowest = torch.maximum(images - epsilon * scale, pixel_low)
    highest = torch.minimum(images + epsilon * scale, pixel_high)
    attacked = torch.clamp(images + start * scale, lowest, highest)
    for _ in range(steps):
        attacked.requires_grad_()
        with torch.enable_grad():
            gradient, = torch.autograd.grad(objective(attacked), attacked)
        attacked = torch.clamp(attacked.detach() + step_size * scale * gradient.sign(), lowest, highest)
    return attacked
