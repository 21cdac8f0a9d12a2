"""The teacher pass: the outputs of a frozen teacher for the batches of a stream, computed once and kept in the cache
for every run that gets the same batches.

Each tensor of the outputs (logits, embedding, stages) is kept in files of its own, one for each piece of consecutive
steps. The first run that computes a piece writes it; other runs read it, and compute for themselves what is missing or
damaged. A piece is read as a whole and then verified by its digest: in a memory-mapped file, another process could
change bytes after they were verified. Each run computes its first answer and compares it with the kept one, so that a
pass made by another machine or library is detected and not used.
"""

import copy
import json
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.data import array_cache
from kdbench.data.base import Dataset
from kdbench.disk import atomic_write
from kdbench.environment import cpu_name, gpu_name, version
from kdbench.execution.job import PassShare
from kdbench.folders import CacheFolder, PassFolder
from kdbench.method import Batch, Outputs
from kdbench.networks import Network, weights_sha256
from kdbench.spec import PROTOCOL, RunSpec, digest

PIECE_BYTES = 16 << 20  # of one tensor of the answers; a run holds one piece of each in memory


@dataclass(frozen=True)
class Keep:
    """Where a run finds the pass that it shares with others, the parts of the answers that it may add ("logits",
    "embedding", "stages"), and a function that takes a sentence for the run's record."""

    folder: PassFolder
    parts: Collection[str]
    note: Callable[[str], None]


def find_pass(cache: CacheFolder, spec: RunSpec, share: PassShare, teacher: Network, dataset: Dataset,
              note: Callable[[str], None], unlabelled: float = 0.0) -> Keep:
    """The teacher pass for the batch stream of a run, shared by all runs that agree in everything that the bits of the
    answers depend on. `unlabelled` is the share of images without labels in the batches. If the run may add to the
    pass, a note file that says what the pass is made of is written to its folder; an existing one is marked as used
    now."""
    recipe = spec.recipe
    made_of = {
        "teacher": weights_sha256(teacher.state_dict()), "model": str(teacher.model), "dataset": dataset.digest,
        "batches": [recipe.batch_size, recipe.image_size, recipe.augment, recipe.normalise, recipe.precision],
        "seed": spec.seed, "protocol": PROTOCOL, "torch": version("torch"), "timm": version("timm"), "cpu": cpu_name(),
        "gpu": gpu_name() if spec.device == "cuda" else None, "device": spec.device,
    }
    if unlabelled:
        made_of["unlabelled"] = unlabelled
    folder = cache.teacher_pass(digest(made_of)[:16])
    with suppress(OSError):  # a cache that cannot be written can still be read
        if folder.note.exists():
            os.utime(folder.note)  # its time says when the pass was last used
        elif share.parts:
            content = {"key": share.key, "pair": spec.pair, "dataset": spec.dataset, "seed": spec.seed,
                       "made_of": made_of}
            atomic_write(folder.note, json.dumps(content, indent=1).encode(), sync=False)
    return Keep(folder, share.parts, note)


class TeacherPass:
    """The teacher of a run, called with a batch: it answers from the kept pass for the batches of the run's stream, and
    by the network for all other images. The answers have the same bits either way."""

    def __init__(self, teacher: Network, steps_per_pass: int, keep: Keep | None):
        self.teacher, self.steps_per_pass, self.keep = teacher, steps_per_pass, keep
        # Kept answers come from a copy: a method that changes its teacher must not change what other runs read.
        self._answering = copy.deepcopy(teacher) if keep is not None else teacher
        self.answered: Callable[[int], None] = lambda images: None  # called with the size of each batch of the pass
        self._tensors: dict[str, KeptTensor] | None = None  # by name; None before the first answer
        self._step, self._version = 0, 0
        self._met: Tensor | None = None

    def meet(self, step: int, batch: Batch | None) -> None:
        """Announce the current step of the run, counted from 0, and the batch of the stream that the method gets in it;
        None for a data-free method."""
        self._step, self._met = step, batch.images if batch else None
        self._version = batch.images._version if batch else 0

    def __call__(self, batch: Batch) -> Outputs:
        images = batch.images
        if self.keep is None or images is not self._met or images._version != self._version:
            return _compute(self.teacher, images)
        self.answered(len(images))
        if self._tensors is None:
            return self._first_answer(images, self.keep)
        return Answer(self._tensors, self._step, lambda: _compute(self._answering, images))

    def _first_answer(self, images: Tensor, keep: Keep) -> Outputs:
        """Compute the run's first answer, which gives the shapes and memory layouts of all, and compare it with the
        kept one. If they differ, the run does not use the pass."""
        outputs = _compute(self._answering, images)
        tensors = {name: KeptTensor(keep.folder.tensor(name), tensor, self.steps_per_pass,
                                    name.rstrip("0123456789") in keep.parts, keep.note)
                   for name, tensor in named(outputs).items()}
        for name, tensor in named(outputs).items():
            kept = tensors[name].get(self._step)
            if kept is not None and not torch.equal(kept.view(torch.int32), tensor.view(torch.int32)):
                keep.note(f"the teacher pass {keep.folder.root.name} has other {name} than this teacher: "
                          "it was not used")
                self.keep = None
                return outputs
        self._tensors = tensors
        return Answer(tensors, self._step, lambda: outputs, computed=True)


@torch.no_grad()
def _compute(network: Network, images: Tensor) -> Outputs:
    return network(images)


def named(outputs: Outputs) -> dict[str, Tensor]:
    """The tensors of an answer by name: "logits", "embedding", "stages0", "stages1" and so on."""
    stages = {f"stages{place}": stage for place, stage in enumerate(outputs.stages)}
    return {"logits": outputs.logits, "embedding": outputs.embedding, **stages}


class Answer(Outputs):
    """The outputs of a teacher for a batch of the stream. Each part is read from the pass, or computed if the pass
    lacks it, when a method first accesses it. Computed logits and embeddings are added to the pass; stages, which are
    large, only if a method accesses them."""

    def __new__(cls, *arguments: Any, **named: Any) -> "Answer":
        return super().__new__(cls, None, None, None)  # type: ignore[arg-type]  # the properties hide these

    def __init__(self, tensors: dict[str, "KeptTensor"], step: int, compute: Callable[[], Outputs],
                 computed: bool = False):
        self._tensors, self._step, self._compute = tensors, step, compute
        self._parts: dict[str, Any] = {}
        self._computed: Outputs | None = self._take() if computed else None

    def _part(self, part: str) -> Any:
        if part not in self._parts:
            kept = None if self._computed is not None else self._kept(part)
            self._parts[part] = self._take_part(part) if kept is None else kept
        return self._parts[part]

    def _kept(self, part: str) -> Any:
        tensors = [tensor.get(self._step) for name, tensor in self._tensors.items() if name.startswith(part)]
        if any(tensor is None for tensor in tensors):
            return None
        return tuple(tensors) if part == "stages" else tensors[0]

    def _take_part(self, part: str) -> Any:
        if self._computed is None:
            self._computed = self._take()
        if part == "stages":
            for place, stage in enumerate(self._computed.stages):
                self._tensors[f"stages{place}"].put(self._step, stage)
        return getattr(self._computed, part)

    def _take(self) -> Outputs:
        computed = self._compute()
        for part in ("logits", "embedding"):
            self._tensors[part].put(self._step, getattr(computed, part))
        return computed

    @property
    def logits(self) -> Tensor:
        return self._part("logits")

    @property
    def embedding(self) -> Tensor:
        return self._part("embedding")

    @property
    def stages(self) -> tuple[Tensor, ...]:
        return self._part("stages")

    def __iter__(self):
        return iter((self.logits, self.embedding, self.stages))

    def __getitem__(self, index):
        return (self.logits, self.embedding, self.stages)[index]

    def _replace(self, **parts: Any) -> Outputs:  # type: ignore[override]  # a replaced answer is not from the pass
        return Outputs(*self)._replace(**parts)


class KeptTensor:
    """One tensor of the answers to the batches of a stream: a float32 array [steps, elements of a batch], in files of
    consecutive steps. No file extends beyond the end of a pass over the training images."""

    def __init__(self, folder: Path, like: Tensor, steps_per_pass: int, grows: bool, note: Callable[[str], None]):
        self.folder, self.grows, self.note = folder, grows, note
        self.shape, self.strides, self.device = like.shape, like.stride(), like.device
        self.dense = _is_dense(like)
        self.steps_per_pass = steps_per_pass
        self.piece = max(1, min(steps_per_pass, PIECE_BYTES // (4 * like.numel())))
        self._first = -1                     # the first step of the piece that was looked up last,
        self._rows: Tensor | None = None     # the piece's rows, if it is kept,
        self._new: list[Tensor] = []         # and otherwise those computed so far

    def get(self, step: int) -> Tensor | None:
        """The tensor of a step; None if it is not kept."""
        first, count = self._place(step)
        if first != self._first:
            self._first, self._rows, self._new = first, self._read(first, count), []
        if self._rows is None:
            return None
        row = self._rows[step - first]
        tensor = torch.empty_strided(self.shape, self.strides, device=self.device)  # with torch's usual alignment
        _memory(tensor).copy_(row) if self.dense else tensor.copy_(row.view(self.shape))
        return tensor

    def put(self, step: int, tensor: Tensor) -> None:
        """Add the tensor of a step to its piece, which is written once it is complete. Nothing is added if the run may
        not add to the pass, if the piece is already kept, or if an earlier step of the piece was left out."""
        first, count = self._place(step)
        if first != self._first:
            self.get(step)
        if not self.grows or self._rows is not None or len(self._new) != step - first:
            return
        if tensor.shape != self.shape or tensor.stride() != self.strides:
            self.grows = False
            return
        self._new.append((_memory(tensor) if self.dense else tensor.reshape(-1)).clone())
        if len(self._new) == count:
            try:
                array_cache.write(self._file(first), torch.stack(self._new).cpu().numpy())
            except OSError as error:
                self.note(f"the teacher pass cannot be kept: {error}")
                self.grows = False
            self._new = []

    def _place(self, step: int) -> tuple[int, int]:
        """The first step of the piece that holds a step, and the number of steps in that piece."""
        start = step - step % self.steps_per_pass
        offset = (step - start) // self.piece * self.piece
        return start + offset, min(self.piece, self.steps_per_pass - offset)

    def _read(self, first: int, count: int) -> Tensor | None:
        try:
            rows = array_cache.read(self._file(first))
            if rows.dtype != np.float32 or rows.shape != (count, self.shape.numel()):
                raise ValueError(f"{self._file(first)} holds {rows.dtype} {rows.shape}")
        except OSError:
            return None
        except ValueError as error:
            self.note(f"a piece of the teacher pass is computed again: {error}")
            self.grows = True
            return None
        # The whole piece is copied to a GPU, asynchronously.
        here = torch.from_numpy(rows)
        return here if self.device.type == "cpu" else here.pin_memory().to(self.device, non_blocking=True)

    def _file(self, first: int) -> Path:
        return self.folder / str(first)


def _memory(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in their order in memory, as a view [elements]."""
    return torch.as_strided(tensor, (tensor.numel(),), (1,))


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements of a tensor lie side by side in memory, for any order of its dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
                               if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
