"""kdbench: a reproducible benchmark of knowledge distillation for image classification."""

from kdbench.version import __version__

__all__ = ["__version__"]
