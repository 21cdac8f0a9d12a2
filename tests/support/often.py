"""Imported by a fork server, lets its runs save a checkpoint after every epoch."""

from kdbench.train import checkpoint

checkpoint.EVERY = 0.0
