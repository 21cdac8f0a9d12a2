"""A Ray cluster of nodes on this machine, each of one core, and the processes of runs in it."""

import os
from pathlib import Path

import psutil

FAST = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
# Imported by every Python of a node that should be otherwise.
WITHOUT = "import sys; sys.modules['kdbench'] = None"
OLDER = """
import importlib.metadata as metadata
known = metadata.version
metadata.version = lambda name: "1.0" if name == "timm" else known(name)
"""


class Cluster:
    """A head and further nodes. Nodes are killed with all that runs on them, as if their power were cut."""

    def __init__(self):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster as RayCluster

        self.nodes = RayCluster(initialize_head=True, head_node_args={
            **SMALL, "include_dashboard": False, "_system_config": FAST})
        self.address = self.nodes.address

    def add(self, **settings):
        return self.nodes.add_node(**{**SMALL, **settings})

    def odd(self, folder: Path, code: str):
        """A node whose Pythons first do the code; it offers the resource `odd`."""
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        return self.add(resources={"odd": 1}, env_vars={"PYTHONPATH": str(folder)})

    def kill(self, node):
        self.nodes.remove_node(node, allow_graceful=False)

    def stop(self):
        self.nodes.shutdown()


def raylet(node) -> psutil.Process:
    """The process that is a node; workers are its children."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def workers(node) -> list[psutil.Process]:
    """The workers on a node that do a run."""
    return [one for one in raylet(node).children() if any("ray::kdbench" in word for word in one.cmdline())]


def below(processes) -> list[psutil.Process]:
    """These processes, and all that they started."""
    return [one for process in processes for one in (process, *process.children(recursive=True))]
