import torch.nn.functional as F

from kdbench.method import Method


class CrossEntropy(Method):
    """Plain training on the labels, without a teacher.
    The reference that every method is compared with, and what trains every teacher.

    loss = CE(student, labels)
    """

    name, family = "ce", "baseline"
    learns_from = None

    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels)}
