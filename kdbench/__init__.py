"""kdbench: a reproducible benchmark of knowledge distillation for image classification.

Importing this package imports no torch, so that the command line answers at once.
A plugin imports what it needs from `kdbench.method` and `kdbench.losses`.
"""

__version__ = "0.1.0"
