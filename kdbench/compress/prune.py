"""Structured pruning by torch-pruning, and the short training in which the pruned network learns from the float one."""

import warnings

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.data.base import Dataset
from kdbench.data.stream import BatchStream
from kdbench.errors import UserError
from kdbench.finished.export import LogitsOnly
from kdbench.networks import count_parameters
from kdbench.parts.losses import soft_cross_entropy
from kdbench.seeds import derive
from kdbench.spec import Recipe
from kdbench.train.trainer import rate_factor

RATE = 0.3         # initial learning rate, as a share of the recipe's; it falls to zero by a cosine
TEMPERATURE = 4.0  # of the softmax, when the pruned network learns the float one's class probabilities
FUSED = "fused_attn"  # attribute of timm's attention; set by name, since timm declares it final


def prune(network: LogitsOnly, share: float, images: Tensor, classes: int) -> None:
    """Remove the given share of the channels of every layer but the last, in place. Channels that depend on each other
    are removed together, those with the smallest L2 norm of all their weights first. Attention keeps the number of its
    heads, which become narrower. `images` are two or more normalised images [B, C, H, W], and `classes` is the number
    of logits. UserError if the network cannot be pruned, or if no channel was removed."""
    import torch_pruning

    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    fused = [module.fused_attn for module in attentions]
    before = count_parameters(network)
    network.eval().requires_grad_(True)  # dependencies are traced along gradients
    try:
        for module in attentions:
            setattr(module, FUSED, False)  # tracing cannot see into the fused kernel
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.BasePruner(
                network, images[:2], torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=share,
                ignored_layers=[module for module in network.modules()
                                if isinstance(module, nn.Linear) and module.out_features == classes],
                num_heads={module.qkv: module.num_heads for module in attentions},
            ).step()
        for module, was_fused in zip(attentions, fused, strict=True):
            setattr(module, FUSED, was_fused)
            module.attn_dim = module.qkv.out_features // 3
            module.head_dim = module.attn_dim // module.num_heads
        with torch.no_grad():
            shape = tuple(network.eval()(images[:2]).shape)
    except Exception as error:  # if torch-pruning misjudges dependencies, it or the network raises nearly anything
        raise UserError(f"torch-pruning cannot prune it: {type(error).__name__}: {error}"[:300]) from error
    if shape != (2, classes):
        raise UserError(f"torch-pruning cannot prune it: logits of shape {list(shape)} were left")
    if count_parameters(network) >= before:
        raise UserError(f"torch-pruning found no channel to remove at a share of {share:g}")


def recover(network: LogitsOnly, teacher: LogitsOnly, dataset: Dataset, recipe: Recipe, epochs: int, seed: int) -> None:
    """Train the pruned network in place, for `epochs` epochs of the recipe, to match the class probabilities of the
    float network `teacher`. Labels are not used. The network is left in eval mode."""
    device = dataset.train.labels.device
    torch.manual_seed(derive(seed, "recovery"))
    own = recipe.model_copy(update={"lr": RATE * recipe.lr, "warmup": 0.0, "schedule": "cosine"})
    stream = BatchStream(dataset, own, derive(seed, "recovery"), device)
    optimizer, steps = _optimizer(network, own), epochs * stream.steps_per_epoch
    network.train()
    for step, batch in enumerate(batch for epoch in range(epochs) for batch in stream.epoch(epoch)):
        with torch.no_grad():
            answers = teacher(batch.images)
        for group in optimizer.param_groups:
            group["lr"] = own.lr * rate_factor(own, (step + 0.5) / steps)
        optimizer.zero_grad(set_to_none=True)
        soft_cross_entropy(network(batch.images), answers, TEMPERATURE).backward()
        optimizer.step()
    network.eval()


def _optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum,
                               nesterov=recipe.nesterov and recipe.momentum > 0, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
