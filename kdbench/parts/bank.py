"""Operations of data-free methods on a bank of synthetic images: shift them, and distil the student on some of them."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from kdbench.method import Method, descend
from kdbench.parts.losses import soft_cross_entropy


def shifted(images: Tensor, jitter: int) -> Tensor:
    """The images [B, C, H, W], all rolled by the same random shift of at most `jitter` pixels in each direction."""
    return images.roll(torch.randint(-jitter, jitter + 1, (2,)).tolist(), (2, 3))


def distill_on(bank: Tensor, method: Method, optimizer: Optimizer, jitter: int,
               temperature: float) -> dict[str, Tensor]:
    """Update the method's student once, by the teacher's softened predictions on a batch of images drawn from `bank`
    [N, C, H, W] and shifted. Returns the term of the loss by name."""
    assert method.ctx.teacher is not None
    images = bank[torch.randint(len(bank), (method.ctx.batch_size,), device=bank.device)]
    images = shifted(images.contiguous(memory_format=torch.channels_last), jitter)
    with torch.no_grad():
        teacher = method.ctx.teacher(images)
    terms = {"kd": soft_cross_entropy(method.student(images).logits, teacher.logits, temperature)}
    descend(optimizer, terms["kd"])
    return terms
