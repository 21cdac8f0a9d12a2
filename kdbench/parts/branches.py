"""The last stage of a timm model as a module of its own, so that several branches can share the lower layers.

torch.fx records what the model computes after its second to last stage. This needs no knowledge of the architecture,
and nothing before that point is traced, so code there may branch on shapes.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Proxy, Tracer
from torch.fx.proxy import TraceError

from kdbench.errors import UserError
from kdbench.method import Outputs
from kdbench.networks import Network


class LastStage(nn.Module):
    """The last stage and the classifier of a network: maps the input of that stage (see `tapped`) to logits [B, K].

    It holds only these layers, so the rest of `network` may be freed. UserError if they cannot be split off.
    """

    def __init__(self, network: Network, image_shape: tuple[int, int, int]):
        super().__init__()
        self.in_bfloat16 = network.in_bfloat16
        device = next(network.parameters()).device
        images = torch.linspace(-1, 1, 3 * math.prod(image_shape), device=device).view(3, *image_shape)
        try:
            self.layers = _record_after(network.model, network.before_last_stage, images[:2])
            self._check(network, images)
        except (TraceError, AttributeError, TypeError, NotImplementedError, RuntimeError, AssertionError) as error:
            name = type(network.model).__name__
            raise UserError(f"{name}: its last stage cannot be split off: {str(error).splitlines()[0]}") from error

    def forward(self, features: Any) -> Tensor:
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            return self.layers(features).float()

    @torch.no_grad()
    def _check(self, network: Network, images: Tensor) -> None:
        """Raise AssertionError unless the lower layers and this stage together give the network's logits on `images`,
        of which there are more than were traced."""
        was_training = network.training
        network.eval()
        outputs, features = tapped(network, images)
        difference = (self.eval()(features) - outputs.logits).abs().max()
        network.train(was_training)
        self.train()
        assert difference <= 1e-3 * (1 + outputs.logits.abs().max()), "the parts do not give what the whole gives"


def tapped(network: Network, images: Tensor) -> tuple[Outputs, Any]:
    """The network's outputs on images [B, C, H, W], and the input of its last stage, usually a tensor."""
    taken: list[Any] = []
    before = network.model.get_submodule(network.before_last_stage)
    handle = before.register_forward_hook(lambda module, arguments, output: taken.append(output))
    try:
        outputs = network(images)
    finally:
        handle.remove()
    return outputs, taken[-1]


def _record_after(model: nn.Module, cut: str, images: Tensor) -> GraphModule:
    """The part of `model` after the output of its submodule `cut`, as a module that holds only the layers it needs."""
    root = _OnFixedImages(model, images)
    return GraphModule(root, _TraceAfter(f"model.{cut}").trace(root))


class _OnFixedImages(nn.Module):
    """A model called without arguments on fixed images, so that none of its values is symbolic before the cut."""

    def __init__(self, model: nn.Module, images: Tensor):
        super().__init__()
        self.model = model
        self._images = [images]  # in a list, so that it is not traced as a buffer

    def forward(self) -> Tensor:
        return self.model(self._images[0])


class _TraceAfter(Tracer):
    """A tracer that runs the modules up to `cut` on real values and records those after it."""

    def __init__(self, cut: str):
        super().__init__()
        self.cut, self.recording = cut, False

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        name = self.path_of_module(m)
        if name == self.cut:
            self.recording = True
            return self.create_proxy("placeholder", "features", (), {})
        if not self.recording or self.cut.startswith(f"{name}."):
            return forward(*args, **kwargs)
        return self.create_proxy("call_module", name, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Proxy]) -> Any:
        return super().getattr(attr, attr_val, parameter_proxy_cache) if self.recording else attr_val
