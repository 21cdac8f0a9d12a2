"""One interface to the networks of timm, of kdbench and of plugin files: inputs in, `Outputs` (logits, embedding,
stages) out."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models import build_model_with_cfg, load_pretrained, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from kdbench.architectures import own
from kdbench.architectures.mlp import MLP
from kdbench.architectures.texts import TextBag, TextTransformer
from kdbench.convolutions import mend
from kdbench.disk import file_sha256
from kdbench.errors import UserError, unknown
from kdbench.method import Outputs, Shapes, is_text
from kdbench.spec import Architecture, FileTeacher, HubTeacher

BUILT_IN: dict[str, Callable[..., nn.Module]] = {  # kdbench's own networks that are not timm models
    "mlp": MLP, "text_bag": TextBag, "text_transformer": TextTransformer}
MAX_STAGES = 4
MAX_PARAMETERS = 2_000_000_000  # of a network; as float32 these take 8 GB
MAX_TENSORS = 5_000             # tensors of parameters in a network
# The exceptions of timm and torch for arguments or images that do not fit.
MISFITS = (TypeError, ValueError, AssertionError, AttributeError, LookupError, ArithmeticError, RuntimeError)


class Network(nn.Module):
    """A timm model that also returns the input of its classifier and its stages; or a model that is not timm's and
    returns them itself (see `kdbench.architectures`).

    The stages of a timm model are its last feature map at each resolution, or the deepest four of these if there are
    more; a model of one resolution (ViT, Mixer) gives up to four evenly spaced blocks, as maps. The model's own output
    equals `logits`.
    """

    model: Any  # timm's interface is not nn.Module's

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...], precision: str = "float32",
                 num_classes: int | None = None):
        """Wrap `model`, and find its stages and their shapes with a forward pass on a dummy batch. `num_classes` is
        given only for a model that is not timm's, whose outputs are checked. UserError if the model cannot take inputs
        of `image_shape` or does not fit this interface."""
        super().__init__()
        mend(model)
        self.model = model
        self.in_bfloat16 = precision == "bfloat16"
        self.is_timm = num_classes is None or hasattr(model, "forward_intermediates")
        self._indices: list[int] = []
        self.shapes = self._measure(image_shape, num_classes)

    @property
    def classifier(self) -> nn.Module:
        """The module that maps an embedding [B, D] to logits [B, K]."""
        return self.model.get_classifier() if self.is_timm else self.model.classifier

    @property
    def before_last_stage(self) -> str:
        """The name, inside `model`, of the module whose output is the second to last stage, as timm declares it."""
        return self.model.feature_info[self._indices[-2]]["module"]

    def forward(self, images: Tensor) -> Outputs:
        if self.in_bfloat16:
            with torch.autocast(images.device.type, torch.bfloat16):
                logits, embedding, stages = self._run(images)
            return Outputs(logits.float(), embedding.float(), tuple(stage.float() for stage in stages))
        return self._run(images)

    def _run(self, images: Tensor) -> Outputs:
        if not self.is_timm:
            return Outputs(*self.model(images))
        features, stages = self.model.forward_intermediates(images, indices=self._indices)
        embedding = self.model.forward_head(features, pre_logits=True)
        return Outputs(self.classifier(embedding), embedding, tuple(stages))

    @torch.no_grad()
    def _measure(self, image_shape: tuple[int, ...], num_classes: int | None) -> Shapes:
        """The shapes of the outputs on a dummy batch; for a timm model, also choose its stages. UserError if the model
        cannot take the batch, or if its classifier applied to its embedding does not give its logits."""
        name = type(self.model).__name__
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        images = dummy_inputs(2, image_shape, device)
        try:
            if self.is_timm:
                _, maps = self.model.forward_intermediates(images)
                self._indices = _stages([_size(m) for m in maps])
                outputs = self._run(images)
                whole = self.model(images)
            else:
                outputs = _checked(self.model(images), name, num_classes)
                whole = outputs.logits
                outputs = outputs._replace(logits=_classified(self.model, outputs.embedding, name))
        except UserError:
            raise
        except (AttributeError, TypeError, NotImplementedError) as error:
            if not self.is_timm:
                raise UserError(f"{name}: its forward fails: {error}") from error
            raise UserError(f"{name}: timm gives no stages and embedding for this architecture: {error}") from error
        except MISFITS as error:
            raise UserError(f"{name}: cannot take {told(image_shape)}: {error}") from error
        if outputs.logits.shape != whole.shape or not torch.allclose(outputs.logits, whole, rtol=1e-4, atol=1e-5):
            raise UserError(f"{name}: its classifier applied to its embedding does not give its logits")
        self.train(was_training)
        mean = outputs.stages[-1].mean((2, 3))
        pooled = mean.shape == outputs.embedding.shape and torch.allclose(mean, outputs.embedding, 1e-4, 1e-5)
        return Shapes(outputs.embedding.shape[1], tuple(map(_size, outputs.stages)), pooled, self.is_timm)


def told(shape: Sequence[int]) -> str:
    """Inputs of a shape in words, for messages: "images of 3x32x32" or "texts of 64 tokens"."""
    return f"texts of {shape[0]} tokens" if is_text(shape) else f"images of {'x'.join(map(str, shape))}"


def dummy_inputs(count: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """A batch of `count` deterministic inputs: images [B, C, H, W] whose values rise from -1 to 1, or texts [B, T] of
    different lengths, padded with 0, whose tokens run through the vocabulary in order."""
    if not is_text(shape):
        return torch.linspace(-1, 1, count * math.prod(shape), device=device).view(count, *shape)
    length, words = shape
    tokens = torch.arange(count * length, device=device).view(count, length) % (words - 1) + 1
    lengths = torch.arange(length, length - count, -1, device=device).clamp(min=1)
    return tokens * (torch.arange(length, device=device) < lengths[:, None])


def _checked(found: Any, name: str, num_classes: int | None) -> Outputs:
    """Check what the forward pass of a network that is not timm's returned for two inputs, and return it as `Outputs`.
    UserError unless it is a tuple of logits [2, K], an embedding [2, D] and a tuple of stages [2, C, H, W]."""
    expected = "expected kdbench.method.Outputs (logits, embedding, stages)"
    if not isinstance(found, tuple) or len(found) != 3:
        raise UserError(f"{name}: its forward returned {_kind(found)}, {expected}")
    logits, embedding, stages = found
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, num_classes) or not logits.is_floating_point():
        raise UserError(f"{name}: its logits are {_kind(logits)} for 2 inputs, expected floats [2, {num_classes}]")
    if not isinstance(embedding, Tensor) or embedding.dim() != 2 or len(embedding) != 2:
        raise UserError(f"{name}: its embedding is {_kind(embedding)} for 2 inputs, expected floats [2, D]")
    if not isinstance(stages, tuple) or not stages:
        raise UserError(f"{name}: its stages are {_kind(stages)}, expected a tuple of at least one feature map")
    for place, stage in enumerate(stages):
        if not isinstance(stage, Tensor) or stage.dim() != 4 or len(stage) != 2:
            raise UserError(f"{name}: its stage {place} is {_kind(stage)} for 2 inputs, expected floats [2, C, H, W]; "
                            "a vector [2, C] is a map of one position, [2, C, 1, 1]")
    return Outputs(logits, embedding, stages)


def _classified(model: nn.Module, embedding: Tensor, name: str) -> Tensor:
    """The logits that the model's `classifier` computes from an embedding. UserError if the model has no such module,
    or if it does not take the embedding."""
    classifier = getattr(model, "classifier", None)
    if not isinstance(classifier, nn.Module):
        raise UserError(f"{name}: it has no module `classifier`, which maps its embedding to its logits")
    try:
        return classifier(embedding)
    except MISFITS as error:
        raise UserError(f"{name}: its classifier does not take its embedding: {error}") from error


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"of type {type(value).__name__}"


def _size(feature_map: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = feature_map.shape
    return channels, height, width


def _stages(shapes: list[tuple[int, int, int]]) -> list[int]:
    """The indices of those of a model's intermediate maps, whose shapes are (C, H, W), that are its stages."""
    if len({shape[1:] for shape in shapes}) == 1:  # one resolution throughout: evenly spaced blocks, the last included
        count = min(MAX_STAGES, len(shapes))
        return [round((i + 1) * len(shapes) / count) - 1 for i in range(count)]
    last = [i for i, (a, b) in enumerate(pairwise(shapes)) if a[1:] != b[1:]] + [len(shapes) - 1]
    return last[-MAX_STAGES:]


def build(architecture: Architecture, num_classes: int, image_shape: tuple[int, ...],
          precision: str = "float32") -> Network:
    """A freshly initialised network for `num_classes` and images of `image_shape` (C, H, W), or texts of (T, V). Its
    weights depend on torch's global random state. UserError for an unknown model, or for arguments or a shape that do
    not fit."""
    name, kwargs = architecture.model, architecture.kwargs
    if architecture.is_own or name in BUILT_IN:
        function = own.given(name, architecture.source) if architecture.is_own else BUILT_IN[name]
        try:
            with _bounded():
                made = function(num_classes, tuple(image_shape), **kwargs)
        except UserError:
            raise
        except Exception as error:  # of the user's own code
            if not architecture.is_own and not isinstance(error, MISFITS):
                raise
            raise UserError(f"{name}({kwargs or ''}): {error or type(error).__name__}") from error
        if not isinstance(made, nn.Module):
            raise UserError(f"{name}: it returned {_kind(made)}, expected an nn.Module")
        return Network(made, image_shape, precision, num_classes)
    if is_text(image_shape):
        known = f"allowed: {', '.join(sorted(BUILT_IN))} and MODULE:FUNCTION of a plugin file"
        raise UserError(f"{name}: timm's models take images, and the dataset holds texts; {known}")
    model = _create(architecture.model, architecture.kwargs, num_classes, image_shape[0])
    return Network(model, image_shape, precision)


def _create(model: str, kwargs: Mapping[str, Any], num_classes: int, in_chans: int, **more: Any) -> Any:
    if not timm.is_model(model):
        raise unknown("timm model", model, [*timm.list_models(), *BUILT_IN])
    try:
        with _bounded():
            created = timm.create_model(model, num_classes=num_classes, in_chans=in_chans, **kwargs, **more)
    except MISFITS as error:
        raise UserError(f"timm.create_model({model!r}, {kwargs}): {error or type(error).__name__}") from error
    return created.to(memory_format=torch.channels_last)


@contextmanager
def _bounded() -> Iterator[None]:
    """While the context lasts, building a network raises ValueError as soon as it has too many parameters. torch
    registers each tensor of parameters before filling it, and memory that is not filled is not taken."""
    parameters = tensors = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters, tensors
        parameters += 0 if parameter is None else parameter.numel()
        tensors += 1
        if parameters > MAX_PARAMETERS or tensors > MAX_TENSORS:
            raise ValueError(f"the network has more than {MAX_PARAMETERS} parameters or {MAX_TENSORS} tensors of them")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def load_teacher(teacher: HubTeacher | FileTeacher, num_classes: int, image_shape: tuple[int, ...],
                 precision: str = "float32") -> Network:
    """A teacher with published weights or with those of a file. UserError if the weights cannot be downloaded or read,
    if the file has changed since the run was planned, or if the weights do not fit the architecture or the classes."""
    name = teacher.architecture.model
    if isinstance(teacher, FileTeacher):
        network = build(teacher.architecture, num_classes, image_shape, precision)
        state = read_weights(teacher)
        if wrong := misfit(state, network.model.state_dict()):
            raise UserError(f"{teacher.path}: not the weights of {name} with {num_classes} classes: {wrong}")
        network.model.load_state_dict(state)
        return network
    model = published(teacher, num_classes, image_shape[0])
    known = model.pretrained_cfg.get("num_classes")
    if known != num_classes:  # timm has given it a new, untrained classifier
        raise UserError(f"weights {name}.{teacher.tag} know {known} classes, the dataset has {num_classes}: train the "
                        f"teacher, from these weights (weights = \"train:hub:{teacher.tag}\") or from nothing "
                        "(\"train\"), or give a file of fine-tuned weights")
    return Network(model, image_shape, precision)


def published(teacher: HubTeacher, num_classes: int, in_chans: int) -> Any:
    """A timm model with its published weights; its classifier is new and untrained if the weights are for another
    number of classes. UserError if the weights cannot be had."""
    name = teacher.architecture.model
    if teacher.architecture.is_own or name in BUILT_IN:
        raise UserError(f"{name}: only timm's models have published weights: train the teacher (weights = \"train\") "
                        "or give a file of weights")
    try:
        return _create(f"{name}.{teacher.tag}", teacher.architecture.kwargs, num_classes, in_chans, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # whatever the hub's client raises when it is offline
        raise UserError(
            f"weights {name}.{teacher.tag} cannot be downloaded here ({type(error).__name__}): put them into the hub's "
            f"cache on a machine with a network, or give the pair a weights file"
        ) from error


def read_weights(source: FileTeacher) -> dict[str, Tensor]:
    """The tensors of a file of weights. UserError if it cannot be read, or has changed since the run was planned."""
    path = Path(source.path)
    try:
        if file_sha256(path) != source.sha256:
            raise UserError(f"{path}: the file changed since the run was planned; start the command again")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no weights can be read from it: {error}") from error


def misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Describe the first tensor that is missing, has another shape than expected, holds infinities or NaN, or is not
    expected; None if the names and shapes of the two state dicts agree."""
    for name, tensor in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != tensor.shape:
            return f"{name} is of shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        if not state[name].isfinite().all():
            return f"{name} is not finite"
    return next((f"{name} is none of its tensors" for name in state if name not in expected), None)


def serialise(state: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file of a state dict; equal weights give equal bytes."""
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """The SHA-256, in hexadecimal, of the safetensors file of a state dict."""
    return hashlib.sha256(serialise(state)).hexdigest()


def saved_part(network: nn.Module) -> nn.Module:
    """The module whose state dict a run saves: the model inside a `Network`, so that the weights of a timm model have
    timm's names; any other module itself."""
    return network.model if isinstance(network, Network) else network


def count_parameters(network: nn.Module) -> int:
    """The number of values in the parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def freeze(network: nn.Module) -> nn.Module:
    """Put a network into eval mode, turn off the gradients of its parameters, and return it."""
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


@register_model
def resnet_cifar(pretrained: bool = False, *, blocks: int = 3, stem: int = 16,
                 channels: tuple[int, int, int] = (16, 32, 64), stride: int = 1, **kwargs: Any) -> ResNet:
    """The small-image ResNet of He et al. (2016, section 4.2), built from timm's ResNet class: a 3x3 stem without
    pooling and three groups of basic blocks, 6 x blocks + 2 layers deep. With a `stride` of 2, the stem halves the
    image. There are no published weights: with `pretrained`, it loads those of a folder that `kdbench export` wrote,
    and without such a folder it raises ValueError."""
    if pretrained and not kwargs.get("pretrained_cfg"):
        raise ValueError("resnet_cifar has no published weights")
    arguments = {
        "block": BasicBlock, "layers": (blocks,) * 3, "channels": tuple(channels), "stem_type": "deep",
        "stem_width": stem // 2, "zero_init_last": False, **kwargs,
    }
    model: Any = build_model_with_cfg(ResNet, "resnet18", pretrained=False, **arguments)
    model.conv1 = nn.Conv2d(model.conv1[0].in_channels, stem, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    model.layer4 = nn.Identity()
    if pretrained:
        load_pretrained(model, num_classes=model.num_classes, in_chans=model.conv1.in_channels)
    return model
