"""Weights that others trained: what a teacher starts from that is trained on, and files of them under timm's names."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdbench.disk import atomic_write, file_sha256
from kdbench.errors import UserError, unknown
from kdbench.networks import Network, published, serialise
from kdbench.spec import FileTeacher, GivenWeights, HubTeacher

WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which checkpoints hold the weights
TOP = 5  # classes that are told of an image


def start_from(network: Network, init: GivenWeights) -> None:
    """Put the weights into the network. Where they know other classes than it, it keeps its own, untrained classifier.
    UserError where they cannot be had or are not of this architecture."""
    own = network.model.state_dict()
    if isinstance(init, HubTeacher):
        stem = next(tensor for tensor in own.values() if tensor.dim() > 1)
        state, where = published(init, network.model.num_classes, stem.shape[1]).state_dict(), init.tag
    else:
        state, where = _read_file(init), init.path
    head = _head(network.model, network.classifier)
    kept = {name for name in own if name.startswith(f"{head}.") and name in state
            and state[name].shape != own[name].shape}
    state = {**state, **{name: own[name] for name in kept}}
    if wrong := _misfit(state, own):
        raise UserError(f"{where}: not weights of {init.architecture.model} for these images: {wrong}")
    network.model.load_state_dict(state)


def _head(model: nn.Module, classifier: nn.Module) -> str:
    """The name of the classifier in the model."""
    return next(name for name, module in model.named_modules() if module is classifier)


def _read_file(source: FileTeacher) -> dict[str, Tensor]:
    path = Path(source.path)
    try:
        if file_sha256(path) != source.sha256:
            raise UserError(f"{path}: the file changed since the run was planned; start the command again")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no weights can be read from it: {error}") from error


def _misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """The first difference of two state dicts in names or shapes, in words; None if there is none."""
    for name, tensor in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != tensor.shape:
            return f"{name} is of shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
    return next((f"{name} is none of its tensors" for name in state if name not in expected), None)


# Files of other code.

def convert(checkpoint: Path, model: str, out: Path) -> Any:
    """Write the weights of a PyTorch checkpoint, or of a safetensors file, under the names that timm's `model` gives
    them; the model with these weights. UserError if they are not of this model.

    Other code has other names for the same network, and builds it in the same order: each tensor must have the kind
    (weight, bias, a statistic), the shape and the type of the one at its place in timm's. Nothing of the file is run.
    """
    if not timm.is_model(model):
        raise unknown("timm model", model, timm.list_models())
    state = _read_checkpoint(checkpoint)
    network: Any = timm.create_model(model)
    last = [tensor for tensor in state.values() if tensor.dim() == 1][-1:]  # of other code, by its place
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
    """The tensors under the expected names: by name where all are alike, else in their order. UserError, beginning with
    `refusal`, where one does not fit."""
    if state.keys() == expected.keys():
        if wrong := _misfit(state, expected):
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
    """The likeliest classes of an image with their probabilities, by a timm model with the input that timm declares for
    it: ImageNet's names where it knows 1,000 classes, else numbers. UserError for a file that is no image."""
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
