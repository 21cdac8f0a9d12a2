"""A finished run's network as files for others: a folder that `timm.create_model` loads, and ONNX.

    FOLDER/model.safetensors   the weights, byte for byte those of the run
    FOLDER/config.json         architecture, arguments, classes, size and normalisation of the input, as timm has it
    FOLDER/model.onnx          on request: normalised images [B, C, H, W] to logits [B, K]
    FOLDER/vocabulary.txt      of texts: the word of each token, one a line
    FOLDER/README.md           the model card

Everything is loaded back and compared with the network on test images before the folder appears.
"""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping
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


TOLERANCE = 1e-3     # of the largest logit: other kernels sum in another order


ADAPTED = ("first_conv", "classifier", "fixed_input_size")  # so that timm can put other classes or channels on it


TIMM = "model.safetensors and config.json"


@dataclass(frozen=True)
class Exported:
    """A written format, and the largest difference of its logits to the network's on the test images."""

    name: str
    difference: float
    images: int


def export(record: Record, store: Store, network: nn.Module, dataset: Dataset, out: Path, card: str,
           onnx: bool) -> list[Exported]:
    """Write the folder `out`. UserError if it exists already, if the network cannot be had in a wanted format or gives
    other outputs there; then nothing is left."""
    if out.exists():
        raise UserError(f"{out}: exists already; give a folder that does not")
    if onnx:
        need_onnx()
    elif not _is_timm(network):
        what = record.spec.student.model if isinstance(network, Network) else type(network).__name__
        raise UserError(f"run {record.run_id}: what {record.spec.method} deploys is not one timm model but {what}, so "
                        "timm cannot load it; --onnx exports it whole")
    images = _test_images(dataset)
    logits = _logits(network, images)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        done = []
        if isinstance(network, Network) and network.is_timm:
            done.append(_to_timm(record, store, network, dataset, folder, logits))
        if onnx:
            done.append(_to_onnx(network, folder, images, logits))
        if dataset.words:
            (folder / "vocabulary.txt").write_text("\n".join(dataset.words) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        folder.chmod(0o755)
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return done


def _is_timm(network: nn.Module) -> bool:
    return isinstance(network, Network) and network.is_timm


def _test_images(dataset: Dataset) -> Tensor:
    """The first test images [B, C, H, W], normalised as the network expects them."""
    images = dataset.test.images.take(torch.arange(min(IMAGES, len(dataset.test))))
    return Normalise(dataset, images.device)(center_crop(images, dataset.image_shape[-1])).contiguous()


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> np.ndarray:
    return _tensor(network(images)).float().numpy()


def _tensor(found: Tensor | Outputs | tuple[Tensor, Tensor, tuple[Tensor, ...]]) -> Tensor:
    """The logits [B, K] in the output of timm's networks, which is the logits, or of others, which begins with them."""
    return found if isinstance(found, Tensor) else found[0]


def _compare(name: str, found: np.ndarray, expected: np.ndarray) -> Exported:
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise UserError(f"{name} does not give the network's logits: they differ by up to {difference:.3g} on "
                        f"{len(expected)} test images")
    return Exported(name, difference, len(expected))


# timm.

def _to_timm(record: Record, store: Store, network: Network, dataset: Dataset, folder: Path,
             logits: np.ndarray) -> Exported:
    config = timm_config(record, dataset, network.model.pretrained_cfg)
    shutil.copyfile(store.files.student(record.run_id), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    assert file_sha256(folder / "model.safetensors") == record.weights_sha256
    try:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"run {record.run_id}: timm {timm.__version__} does not load what was exported: {error}") \
            from error
    return _compare(TIMM, _logits(loaded, _test_images(dataset)), logits)


def timm_config(record: Record, dataset: Dataset, declared: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json in the format of timm's hub; `declared` is what timm says of the architecture."""
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


# ONNX.

def need_onnx() -> None:
    if any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxruntime", "onnxscript")):
        raise UserError("ONNX is not installed: pip install 'kdbench[onnx]'")


class LogitsOnly(nn.Module):
    """Images to logits alone, in float32 whatever the run's precision: ONNX has no autocast."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = saved_part(network)

    def forward(self, images: Tensor) -> Tensor:
        return _tensor(self.network(images))


def write_onnx(network: nn.Module, path: Path, images: Tensor) -> None:
    """Write a network that maps `images` [B, C, H, W], two or more of them, to logits as ONNX with a free number of
    images. UserError if torch cannot, say a network of the user's own."""
    try:
        torch.onnx.export(
            network.eval(), (images[:2],), str(path), dynamo=True, external_data=False, verbose=False,
            input_names=["images"], output_names=["logits"], dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    except torch.onnx.OnnxExporterError as error:
        why = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"torch cannot export the network to ONNX: {why}") from error


def _to_onnx(network: nn.Module, folder: Path, images: Tensor, logits: np.ndarray) -> Exported:
    """`images` are exported with a free number, and compared one by one with the network's logits."""
    import onnxruntime

    path = folder / "model.onnx"
    write_onnx(LogitsOnly(network), path, images)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    return _compare(path.name, found, logits)
