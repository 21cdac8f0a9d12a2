"""ONNX files that onnxruntime runs: the float network, its static int8 form, and both as networks of torch."""

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

OPERATIONS = ["Conv", "Gemm", "MatMul"]  # what has weights: these and its inputs are int8, all else stays float
COMPARED = 64          # images on which a file is compared with the network that it was written of


class OnnxNetwork(nn.Module):
    """An ONNX file as a network that maps normalised images to `Outputs` with logits alone, without gradients."""

    def __init__(self, path: Path):
        super().__init__()
        self.session = open_session(path)

    def forward(self, images: Tensor) -> Outputs:
        (found,) = self.session.run(["logits"], {"images": np.ascontiguousarray(images.numpy())})
        logits = torch.from_numpy(found)
        return Outputs(logits, logits, ())


class Slopes(nn.Module):
    """A network of torch whose output is its logits, as one that gives `Outputs`, for its gradients."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Outputs:
        logits = self.network(images)
        return Outputs(logits, logits, ())


def open_session(path: Path) -> Any:
    """A file in onnxruntime on one thread of the CPU. Products of 8-bit numbers are exact: without VNNI the fast ones
    overflow, and figures would depend on the machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write_float(network: LogitsOnly, path: Path, images: Tensor) -> None:
    """Write a network as ONNX in float32, with what inference can do once done and nothing in it that names this
    machine. UserError if it cannot be exported, or gives other logits for `images` there."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raw = path.with_suffix(".raw.onnx")
    with torch.no_grad():
        expected = network.eval()(images).numpy()
    try:
        with quiet():
            write_onnx(network, raw, images)
            quant_pre_process(str(raw), str(path))
            _slim(path)
    except Exception as error:  # of torch's exporter, which raises nearly anything
        raise UserError(f"it cannot be exported to ONNX: {type(error).__name__}: {first_line(error)}") from error
    finally:
        raw.unlink(missing_ok=True)
    check_logits("its ONNX file", OnnxNetwork(path)(images).logits.numpy(), expected)


def write_int8(source: Path, path: Path, images: Tensor) -> None:
    """Write the static int8 form of a float ONNX file: int8 weights by output channel, symmetric, and int8 inputs of
    layers by tensor, whose ranges are those that `images` [N, C, H, W] give. UserError if it cannot be done."""
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
    except Exception as error:  # of a graph that it does not understand
        raise UserError(f"onnxruntime cannot quantise it: {type(error).__name__}: {first_line(error)}") from error


def _round_for_layers_alone(path: Path) -> None:
    """Give what has no weights its inputs as they were. onnxruntime rounds a tensor for all that read it: the input of
    a residual block, say, also on its way round the block."""
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
    """Take out of a file what onnxruntime does without: names of nodes, shapes of what flows between them, where in the
    source they came from. Long names of tensors become short ones: of a small network they are half the file."""
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
    """Images one by one, as onnxruntime's quantisation asks for them."""

    def __init__(self, images: Tensor):
        self._images: Iterator[Tensor] = iter(images.split(1))

    def get_next(self) -> dict[str, np.ndarray] | None:
        one = next(self._images, None)
        return None if one is None else {"images": np.ascontiguousarray(one.numpy())}


def calibration_images(dataset: Dataset) -> Tensor:
    """The training images [N, C, H, W] that ranges are taken from, the same for every student on the dataset: in
    proportion to the classes, unaugmented, normalised."""
    labels = dataset.train.labels.cpu().numpy()
    wanted = min(len(labels), max(CALIBRATION, len(np.unique(labels))))
    positions = np.sort(stratified(labels, wanted, "calibration")[0])
    images = dataset.train.images.take(torch.from_numpy(positions))
    return Normalise(dataset, images.device)(center_crop(images, dataset.image_shape[-1])).contiguous()
