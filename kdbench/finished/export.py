"""Exports the network of a finished run: as a folder that `timm.create_model` loads, as ONNX, and for ExecuTorch.

    FOLDER/model.safetensors   the weights, byte for byte those of the run, if the network is one timm model
    FOLDER/config.json         beside them: architecture, arguments, classes, and the size and normalisation of the
                               input, in timm's format
    FOLDER/model.onnx          on request: maps normalised images [B, C, H, W] to logits [B, K]
    FOLDER/model.pte           on request: a program for ExecuTorch's runtime on phones, which maps one image
                               [1, C, H, W] to logits [1, K], with XNNPACK's kernels for the layers that have one
    FOLDER/vocabulary.txt      for a dataset of texts: the word of each token, one per line
    FOLDER/README.md           the model card

The exported networks are loaded again and compared with the original on test images before the folder appears.
"""

import copy
import importlib.util
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from kdbench.data.base import Dataset
from kdbench.data.stream import Normalise, center_crop
from kdbench.disk import file_sha256
from kdbench.errors import UserError
from kdbench.method import Outputs
from kdbench.networks import Network, saved_part
from kdbench.results.record import Record
from kdbench.results.store import Store

IMAGES = 256         # test images on which outputs are compared


TOLERANCE = 1e-3     # allowed difference, relative to the largest logit: other kernels sum in another order


ADAPTED = ("first_conv", "classifier", "fixed_input_size")  # timm needs these to change classes or channels


TIMM = "model.safetensors and config.json"


@dataclass(frozen=True)
class Exported:
    """An exported format, its size in bytes, and the largest absolute difference between its logits and those of the
    network on the test images, of which there are `images`."""

    name: str
    size: int
    difference: float
    images: int


def export(record: Record, store: Store, network: nn.Module, dataset: Dataset, out: Path, card: str,
           *wanted: str) -> list[Exported]:
    """Write the folder `out` with timm's files, if the network is one timm model, and with the files of the `wanted`
    formats (keys of FORMATS). `store` holds the run's weights, and `card` is the text of the model card. UserError, and
    nothing is left behind, if `out` exists already, if a wanted format is not installed, if there is nothing to export
    without a wanted format, or if a format cannot take the network or gives other logits."""
    if out.exists():
        raise UserError(f"{out}: exists already; give a folder that does not")
    for name in wanted:
        need(name)
    timms = network if isinstance(network, Network) and network.is_timm else None
    if not wanted and timms is None:
        what = record.spec.student.model if isinstance(network, Network) else type(network).__name__
        raise UserError(f"run {record.run_id}: what {record.spec.method} deploys is not one timm model but {what}, so "
                        "timm cannot load it; --onnx and --executorch export it whole")
    images = _test_images(dataset)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        done = []
        if timms is not None:
            done.append(_to_timm(record, store, timms, dataset, folder, images))
        if wanted:
            logits = _logits(network, images)
            done += [FORMATS[name].write(network, folder, images, logits) for name in wanted]
        if dataset.words:
            (folder / "vocabulary.txt").write_text("\n".join(dataset.words) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        folder.chmod(0o755)
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return done


def _test_images(dataset: Dataset) -> Tensor:
    """The first test images [B, C, H, W], at most IMAGES of them, normalised as the network expects them."""
    images = dataset.test.images.take(torch.arange(min(IMAGES, len(dataset.test))))
    return Normalise(dataset, images.device)(center_crop(images, dataset.image_shape[-1])).contiguous()


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> np.ndarray:
    return _tensor(network(images)).float().numpy()


def _tensor(found: Tensor | Outputs | tuple[Tensor, Tensor, tuple[Tensor, ...]]) -> Tensor:
    """The logits [B, K] in the output of a network: timm's networks give only the logits, others a tuple that begins
    with them."""
    return found if isinstance(found, Tensor) else found[0]


def _compare(name: str, size: int, found: np.ndarray, expected: np.ndarray) -> Exported:
    return Exported(name, size, check_logits(name, found, expected), len(expected))


def check_logits(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference between the logits `found` [B, K] that the file `name` gives and the logits
    `expected` [B, K] of the network. UserError if it exceeds TOLERANCE times the largest absolute logit, or TOLERANCE
    itself if no logit exceeds 1."""
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise UserError(f"{name} does not give the network's logits: they differ by up to {difference:.3g} on "
                        f"{len(expected)} images")
    return difference


# timm.

def _to_timm(record: Record, store: Store, network: Network, dataset: Dataset, folder: Path,
             images: Tensor) -> Exported:
    config = timm_config(record, dataset, network.model.pretrained_cfg)
    shutil.copyfile(store.files.student(record.run_id), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    assert file_sha256(folder / "model.safetensors") == record.weights_sha256
    try:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"run {record.run_id}: timm {timm.__version__} does not load what was exported: {error}") \
            from error
    size = (folder / "model.safetensors").stat().st_size
    images = images.contiguous(memory_format=torch.channels_last)  # as in runs, for the same kernels
    return _compare(TIMM, size, _logits(loaded, images), _logits(network, images))


def timm_config(record: Record, dataset: Dataset, declared: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json in the format of timm's hub; `declared` is the `pretrained_cfg` of the timm model."""
    channels, height, width = dataset.image_shape
    architecture = record.spec.student
    return {
        "architecture": architecture.model, "num_classes": len(dataset.classes),
        "label_names": list(dataset.classes),
        "model_args": {**architecture.kwargs, "in_chans": channels},
        "pretrained_cfg": {
            "num_classes": len(dataset.classes), "input_size": [channels, height, width], "crop_mode": "center",
            "crop_pct": 1.0, "interpolation": "bilinear",
            **{key: declared[key] for key in ADAPTED if declared.get(key) is not None},
            "mean": dataset.mean.tolist(), "std": dataset.std.tolist(),
        },
    }


# ONNX and ExecuTorch.

class LogitsOnly(nn.Module):
    """A network that maps images [B, C, H, W] to logits [B, K] alone. A timm model computes in float32 whatever the
    run's precision, since ONNX and ExecuTorch have no autocast."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = saved_part(network)

    def forward(self, images: Tensor) -> Tensor:
        return _tensor(self.network(images))


@contextmanager
def quiet() -> Iterator[None]:
    """A context without the warnings and log messages that the export packages print."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def first_line(error: Exception) -> str:
    """The first line of an error's text that is not blank, or else the name of its type, cut to 200 characters."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def write_onnx(network: nn.Module, path: Path, images: Tensor) -> None:
    """Write a network that maps `images` [B, C, H, W] to logits as ONNX, with a free batch size. `images` must be two
    or more. UserError if torch cannot export the network, for instance one of the user's own."""
    try:
        torch.onnx.export(
            network.eval(), (images[:2],), str(path), dynamo=True, external_data=False, verbose=False,
            input_names=["images"], output_names=["logits"], dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(f"torch cannot export the network to ONNX: {first_line(cause)}") from error


def _to_onnx(network: nn.Module, folder: Path, images: Tensor, logits: np.ndarray) -> Exported:
    """Export the network with a free batch size, and compare its logits on `images` with `logits`, those of the
    network."""
    import onnxruntime

    path = folder / "model.onnx"
    write_onnx(LogitsOnly(network), path, images)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    return _compare(path.name, path.stat().st_size, found, logits)


def _to_executorch(network: nn.Module, folder: Path, images: Tensor, logits: np.ndarray) -> Exported:
    """Export the network for a single image, since the memory of the program is planned ahead, and compare its logits
    on each of `images` with `logits`, those of the network. Whatever depends on weights alone is computed at export,
    such as timm's resampling of position embeddings, for which ExecuTorch has no kernel. UserError if ExecuTorch cannot
    take the network."""
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.exir.passes.constant_prop_pass import constant_prop_pass
        from executorch.runtime import Runtime

    # ExecuTorch's passes expect contiguous weights, and its runtime expects the strides of the example image.
    plain = copy.deepcopy(LogitsOnly(network)).to(memory_format=torch.contiguous_format).eval()
    rows = [image.clone(memory_format=torch.contiguous_format) for image in images.split(1)]
    path = folder / "model.pte"
    try:
        with quiet():
            exported = constant_prop_pass(torch.export.export(plain, (rows[0],)))
            lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            path.write_bytes(lowered.to_executorch().buffer)
        program = Runtime.get().load_program(path).load_method("forward")
        found = torch.cat([program.execute((row,))[0].clone() for row in rows])
    except OSError:
        raise
    except Exception as error:  # unsupported operations raise one of many types
        raise UserError(f"ExecuTorch cannot take the network: {first_line(error)}") from error
    return _compare(path.name, path.stat().st_size, found.numpy(), logits)


@dataclass(frozen=True)
class Format:
    """An export format: its name for users, the packages that it needs, and the function that writes a network to a
    file in a folder and compares its logits on images with the network's."""

    title: str
    packages: tuple[str, ...]
    write: Callable[[nn.Module, Path, Tensor, np.ndarray], Exported]


FORMATS = {
    "onnx": Format("ONNX", ("onnx", "onnxruntime", "onnxscript"), _to_onnx),
    "executorch": Format("ExecuTorch", ("executorch",), _to_executorch),
}


def need(name: str) -> None:
    """Raise UserError unless the packages of the format `name`, a key of FORMATS, are installed."""
    one = FORMATS[name]
    if any(importlib.util.find_spec(package) is None for package in one.packages):
        raise UserError(f"{one.title} is not installed: pip install 'kdbench[{name}]'")
