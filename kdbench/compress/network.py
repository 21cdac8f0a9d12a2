"""ONNX files that onnxruntime runs: writing a float network and its static int8 form, and using them as modules of
torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.compress.record import CALIBRATION
from kdbench.data.base import Dataset
from kdbench.data.splits import stratified
from kdbench.data.stream import Normalise, center_crop
from kdbench.errors import UserError
from kdbench.finished.export import LogitsOnly, check_logits, first_line, quiet, write_onnx
from kdbench.method import Outputs

OPERATIONS = ["Conv", "Gemm", "MatMul"]  # operations whose weights and inputs are int8; all others stay float
COMPARED = 64          # images on which a file is compared with the network that it was written from


class OnnxNetwork(nn.Module):
    """An ONNX file as a module that maps normalised images to `Outputs`, without gradients. Only their logits are real:
    the embedding repeats them, and there are no stages."""

    def __init__(self, path: Path):
        super().__init__()
        self.session = open_session(path)

    def forward(self, images: Tensor) -> Outputs:
        (found,) = self.session.run(["logits"], {"images": np.ascontiguousarray(images.numpy())})
        logits = torch.from_numpy(found)
        return Outputs(logits, logits, ())


class Slopes(nn.Module):
    """Wraps a module that gives logits as one that gives `Outputs`, so that attacks can follow its gradients."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Outputs:
        logits = self.network(images)
        return Outputs(logits, logits, ())


def open_session(path: Path) -> Any:
    """Open an ONNX file in onnxruntime, on one thread of the CPU. Products of 8-bit numbers are exact: without VNNI,
    the fast ones overflow, and results would depend on the machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write_float(network: LogitsOnly, path: Path, images: Tensor) -> None:
    """Write a network as an ONNX file in float32, optimised for inference and with nothing in it that names this
    machine. UserError if the network cannot be exported, or if the file gives other logits for `images` [B, C, H, W]
    than the network."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raw = path.with_suffix(".raw.onnx")
    with torch.no_grad():
        expected = network.eval()(images).numpy()
    try:
        with quiet():
            write_onnx(network, raw, images)
            quant_pre_process(str(raw), str(path))
            _slim(path)
    except Exception as error:  # torch's exporter raises nearly anything
        raise UserError(f"it cannot be exported to ONNX: {type(error).__name__}: {first_line(error)}") from error
    finally:
        raw.unlink(missing_ok=True)
    check_logits("its ONNX file", OnnxNetwork(path)(images).logits.numpy(), expected)


def write_int8(source: Path, path: Path, images: Tensor) -> None:
    """Write the static int8 form of the float ONNX file `source`. Weights are symmetric int8 with a range for each
    output channel; inputs of layers are int8 with a range for each tensor, as measured on `images` [N, C, H, W].
    UserError if onnxruntime cannot quantise the file."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    try:
        with quiet():
            quantize_static(
                str(source), str(path), _Calibration(images), quant_format=QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=OPERATIONS, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax, extra_options={
                    "MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": OPERATIONS})
            _round_for_layers_alone(path)
            _slim(path)
    except Exception as error:  # for a graph that onnxruntime does not understand
        raise UserError(f"onnxruntime cannot quantise it: {type(error).__name__}: {first_line(error)}") from error


def _round_for_layers_alone(path: Path) -> None:
    """Give operations without weights their inputs unrounded. onnxruntime rounds a tensor for all operations that read
    it: for example, the input of a residual block is rounded in its shortcut too."""
    import onnx

    model = onnx.load(str(path))
    rounded = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    before = {node.output[0]: rounded[node.input[0]] for node in model.graph.node
              if node.op_type == "DequantizeLinear" and node.input[0] in rounded}
    for node in model.graph.node:
        if node.op_type not in OPERATIONS:
            node.input[:] = [before.get(name, name) for name in node.input]
    onnx.save(model, str(path))


def _slim(path: Path) -> None:
    """Remove from an ONNX file what onnxruntime does not need: names of nodes, shapes of intermediate tensors, places
    in the source code. Names of tensors are shortened: they are half the file of a small network."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    kept = {one.name for one in (*graph.input, *graph.output)} | {""}  # "": an optional input that is not given
    names = dict.fromkeys([*(one.name for one in graph.initializer),
                           *(name for node in graph.node for name in (*node.input, *node.output))])
    short = {name: name if name in kept else f"t{number}" for number, name in enumerate(names)}
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]
    for node in graph.node:
        node.name = node.doc_string = ""
        node.input[:], node.output[:] = ([short[name] for name in some] for some in (node.input, node.output))
        del node.metadata_props[:]
    del graph.value_info[:], graph.quantization_annotation[:], graph.metadata_props[:], model.metadata_props[:]
    onnx.save(model, str(path))


class _Calibration:
    """Gives images one by one, in the form that onnxruntime's quantisation asks for."""

    def __init__(self, images: Tensor):
        self._images: Iterator[Tensor] = iter(images.split(1))

    def get_next(self) -> dict[str, np.ndarray] | None:
        one = next(self._images, None)
        return None if one is None else {"images": np.ascontiguousarray(one.numpy())}


def calibration_images(dataset: Dataset) -> Tensor:
    """The training images [N, C, H, W] for the ranges of activations, normalised and not augmented. They are stratified
    by class, and the same for every student on the dataset."""
    labels = dataset.train.labels.cpu().numpy()
    wanted = min(len(labels), max(CALIBRATION, len(np.unique(labels))))
    positions = np.sort(stratified(labels, wanted, "calibration")[0])
    images = dataset.train.images.take(torch.from_numpy(positions))
    return Normalise(dataset, images.device)(center_crop(images, dataset.image_shape[-1])).contiguous()
