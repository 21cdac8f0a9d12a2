"""Weights that were trained elsewhere: loading them into a network that is trained on, and converting checkpoints of
other code to timm's tensor names."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdbench.disk import atomic_write
from kdbench.errors import UserError, unknown
from kdbench.networks import Network, misfit, published, read_weights, serialise
from kdbench.spec import GivenWeights, HubTeacher

WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which checkpoints hold the weights
TOP = 5  # number of classes that `classes_of` returns for an image


def start_from(network: Network, init: GivenWeights) -> None:
    """Load the weights that `init` names into the network. If they were trained for another number of classes, the
    classifier stays untrained. UserError if the weights cannot be downloaded or read, or if they do not fit the
    network's architecture."""
    own = network.model.state_dict()
    if isinstance(init, HubTeacher):
        stem = next(tensor for tensor in own.values() if tensor.dim() > 1)
        state, where = published(init, network.model.num_classes, stem.shape[1]).state_dict(), init.tag
    else:
        state, where = read_weights(init), init.path
    head = _head(network.model, network.classifier)
    kept = {name for name in own if name.startswith(f"{head}.") and name in state
            and state[name].shape != own[name].shape}
    state = {**state, **{name: own[name] for name in kept}}
    if wrong := misfit(state, own):
        raise UserError(f"{where}: not weights of {init.architecture.model} for these images: {wrong}")
    network.model.load_state_dict(state)


def _head(model: nn.Module, classifier: nn.Module) -> str:
    """The name of the module `classifier` within the model."""
    return next(name for name, module in model.named_modules() if module is classifier)


# Checkpoints of other code.

def convert(checkpoint: Path, model: str, out: Path) -> Any:
    """Convert the weights in a PyTorch checkpoint or a safetensors file to the tensor names of timm's `model`, write
    them to the safetensors file `out`, and return the model with these weights in eval mode. UserError if there is no
    such model, if the file cannot be read, or if its weights do not fit the model.

    Other code may give the tensors of the same network other names, but builds the network in the same order. So if the
    names differ, each tensor must have the kind (weight, bias, a statistic), shape and data type of the tensor at the
    same place in timm's model. No code in the file is run.
    """
    if not timm.is_model(model):
        raise unknown("timm model", model, timm.list_models())
    state = _read_checkpoint(checkpoint)
    network: Any = timm.create_model(model)
    last = [tensor for tensor in state.values() if tensor.dim() == 1][-1:]  # the classifier's bias, if names differ
    biases = [state.get(f"{_head(network, network.get_classifier())}.bias"), *last]
    network.reset_classifier(next((len(one) for one in biases if one is not None), network.num_classes))
    named = _in_its_names(state, network.state_dict(), f"{checkpoint}: not weights of {model}")
    network.load_state_dict(named)
    atomic_write(out, serialise(network.state_dict()))
    return network.eval()


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(
            path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"{path}: no weights can be read from it: {' '.join(str(error).split())[:200]}") from error
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(one, Tensor) for one in found.values()):
        raise UserError(f"{path}: it holds no state dict, which is tensors by name")
    return {str(name): tensor for name, tensor in found.items()}


def _in_its_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], refusal: str) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `expected`: matched by name if the names are the same, else by their
    order. UserError, whose message begins with `refusal`, if a tensor does not fit."""
    if state.keys() == expected.keys():
        if wrong := misfit(state, expected):
            raise UserError(f"{refusal}: {wrong}")
        return {name: state[name] for name in expected}
    if len(state) != len(expected):
        raise UserError(f"{refusal}: it has {len(state)} tensors, expected {len(expected)}")
    for (theirs, tensor), (name, like) in zip(state.items(), expected.items(), strict=True):
        kinds = theirs.rpartition(".")[2], name.rpartition(".")[2]
        if tensor.shape != like.shape or tensor.dtype != like.dtype or kinds[0] != kinds[1]:
            raise UserError(f"{refusal}: at the place of {name}, {tuple(like.shape)}, it has {theirs}, "
                            f"{tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise UserError(f"{refusal}: {theirs} is not finite")
    return dict(zip(expected, state.values(), strict=True))


@torch.no_grad()
def classes_of(network: Any, image: Path) -> list[tuple[str, float]]:
    """The most probable classes of an image and their probabilities, at most `TOP` of them, predicted by a timm model
    from the input that its configuration declares. Classes are ImageNet's names if the model has 1,000 classes, and
    numbers otherwise. UserError if the file cannot be read as an image."""
    from PIL import Image
    from timm.data import ImageNetInfo, create_transform, resolve_data_config

    try:
        with Image.open(image) as opened:
            pixels = create_transform(**resolve_data_config(model=network))(opened.convert("RGB"))
    except OSError as error:
        raise UserError(f"{image}: no image can be read from it: {error}") from error
    found = network(pixels[None]).softmax(1)[0].topk(min(TOP, network.num_classes))
    names = ImageNetInfo() if network.num_classes == 1000 else None
    return [(names.index_to_description(index) if names else str(index), probability)
            for probability, index in zip(found.values.tolist(), found.indices.tolist(), strict=True)]
