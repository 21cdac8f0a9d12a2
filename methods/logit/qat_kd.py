from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy

DECAY = 0.9  # of the moving averages of ranges, by step


class QATKD(Method):
    """The student learns from the teacher while its weights and activations are rounded as in the int8 network that it
    will become.

    loss = (1 - alpha) CE(Q(student), labels) + alpha temperature^2 KL(teacher || Q(student))

    Q rounds the weights of convolutions and linear layers to int8 by output channel, symmetrically, and their inputs by
    tensor, between moving averages of the batches' extremes; gradients pass straight through (Jacob et al., 2018). The
    float weights are what is trained, scored and saved; `kdbench compress --int8` rounds them to the same grid, which
    folding BatchNorm into a layer scales and does not change. The paper rounds weights to few bits by buckets, and no
    activations; 8 bits are what runtimes compute in. `start` is the share of the run that trains in float.
    """

    name, family = "qat_kd", "logit"
    paper = Paper(
        title="Model compression via distillation and quantization",
        authors=("Antonio Polino", "Razvan Pascanu", "Dan Alistarh"),
        year=2018, venue="ICLR", arxiv="1802.05668",
    )
    ranges = {"temperature": (1.0, 20.0), "alpha": (0.0, 1.0), "start": (0.0, 0.9)}
    unlabelled = "alone"
    conditions = ("for int8",)

    def __init__(self, ctx, *, temperature: float = 4.0, alpha: float = 0.9, start: float = 0.25):
        super().__init__(ctx)
        self.temperature, self.alpha, self.start = temperature, alpha, start
        names = self._layers()
        self.register_buffer("extremes", torch.zeros(len(names), 2))  # lowest and highest input of each layer
        self.register_buffer("seen", torch.zeros(len(names), dtype=torch.bool))

    def _layers(self) -> dict[str, nn.Module]:
        return {name: module for name, module in self.student.named_modules()
                if isinstance(module, nn.Conv2d | nn.Linear)}

    def study(self, batch):
        if self.progress < self.start:
            return self.student(batch.images)
        layers = self._layers()
        rounded = {f"{name}.weight": round_weight(layer.weight) for name, layer in layers.items()}
        hooks = [layer.register_forward_pre_hook(partial(self._round_input, place))
                 for place, layer in enumerate(layers.values())]
        try:
            return functional_call(self.student, rounded, (batch.images,))
        finally:
            for hook in hooks:
                hook.remove()

    def losses(self, batch, student, teacher):
        return {
            "ce": (1 - self.alpha) * labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, teacher.logits, self.temperature),
        }

    def _round_input(self, place: int, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """What a layer gets in place of its input."""
        with torch.no_grad():
            low, high = inputs[0].aminmax()
            now = torch.stack([low.clamp(max=0), high.clamp(min=0)]).float()
            before = torch.where(self.seen[place], self.extremes[place], now)
            self.extremes[place] = DECAY * before + (1 - DECAY) * now
            self.seen[place] = True
        return (round_activation(inputs[0], *self.extremes[place].clone()),)


def round_weight(weight: Tensor) -> Tensor:
    """A weight [C, ...] rounded to int8 by output channel, symmetrically about zero."""
    scale = weight.detach().abs().flatten(1).amax(1).clamp(min=1e-12).float() / 127
    return torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0,
                                                  -127, 127)


def round_activation(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values of any shape rounded to 256 steps from `low`, at most zero, to `high`, at least zero; zero stays zero."""
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)
