"""The options of `--ray KEY=VALUE`: which cluster tasks are sent to, and what each task asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from kdbench.errors import UserError, nearest
from kdbench.execution.cluster.options import last, read_number
from kdbench.results.sizes import read_size

NOT_INSTALLED = "--executor ray: ray is not installed: pip install 'kdbench[ray]'"
NUMBERS = {"num_cpus": 0.01, "num_gpus": 0.0, "wait": 0.0}  # each with the least value that it may have
KEYS = ("address", "memory", "resources.NAME", *NUMBERS)
RESOURCES = "resources."
RAYS_OWN = {"CPU", "GPU", "memory", "object_store_memory"}


@dataclass(frozen=True)
class Options:
    """Where a Ray cluster is, and what each task asks of it."""

    address: str | None = None      # HOST:PORT; None: the one in RAY_ADDRESS, else the cluster of this machine
    num_cpus: float | None = None   # None: one, or with `whole_node` all of a node
    num_gpus: float | None = None   # None: one for a task on a GPU, else none
    memory: int | None = None       # bytes that Ray sets apart for a task
    resources: Mapping[str, float] = field(default_factory=dict)  # by the names that the cluster's owner gave
    wait: float = 30.0              # seconds to wait for a node that offers all this, if there is none
    whole_node: bool = False        # so that no other task that asks for a CPU runs beside it

    def demand(self, device: str, offers: list[dict[str, float]]) -> dict[str, float]:
        """The amounts, by Ray's names of resources, that a task on the device asks for, without zeros; `offers` are the
        resources of each node."""
        gpus = self.num_gpus if self.num_gpus is not None else float(device == "cuda")
        wanted = {"GPU": gpus, "memory": float(self.memory or 0), **self.resources}
        cpus = self.num_cpus or 1.0
        if self.whole_node and self.num_cpus is None:
            cpus = max([offer.get("CPU", 0.0) for offer in offers if fits(wanted, offer)] or [cpus])
        return {name: number for name, number in {"CPU": cpus, **wanted}.items() if number}


def fits(demand: Mapping[str, float], offer: Mapping[str, float]) -> bool:
    """Whether a node that has the resources `offer` could do a task that asks for `demand`."""
    return all(offer.get(name, 0.0) >= number for name, number in demand.items())


def read_options(given: Mapping[str, Any]) -> Options:
    """The options that keys and values of `--ray` name. UserError for an unknown key, for an invalid value, and if Ray
    is not installed.

    The keys are the fields of `Options` except `whole_node`; `memory` is a size such as 4GB, and `resources.NAME` is
    how much a task needs of a resource that nodes were started with.
    """
    if find_spec("ray") is None:
        raise UserError(NOT_INSTALLED)
    found: dict[str, Any] = {}
    resources: dict[str, float] = {}
    for key, said in given.items():
        value = last(said)
        if key in NUMBERS:
            found[key] = read_number(f"--ray {key}", value, NUMBERS[key])
        elif key == "address":
            found[key] = str(value)
        elif key == "memory":
            found[key] = read_size(str(value), "--ray memory")
        elif key.startswith(RESOURCES) and key != RESOURCES:
            resources[key.removeprefix(RESOURCES)] = read_number(f"--ray {key}", value, 0.0)
        else:
            raise UserError(f"--ray {key}: unknown key{nearest(key, KEYS)}")
    gpus = found.get("num_gpus") or 0.0
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"--ray num_gpus={gpus:g}: expected a part of one GPU, such as 0.5, or a whole number")
    if taken := resources.keys() & RAYS_OWN:
        raise UserError(f"--ray {RESOURCES}{min(taken)}: Ray's own: ask by num_cpus, num_gpus or memory")
    return Options(**found, resources=resources)
