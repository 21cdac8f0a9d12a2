import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.stages import pair_stages, width_adapters

SPARE = 3        # further vectors of the student that may stand for one of the teacher's
AUTHORS_EPOCHS = 200


class KDSVD(Method):
    """Each stage of an image is reduced to the first right singular vectors of its positions x channels matrix. The
    student learns how the teacher's vectors of a stage relate to those of the next, as a task beside that of the
    labels, whose gradient bounds its own.

    loss = CE(student, labels) + alpha sum_{stages i > 1} |R_i^student - R_i^teacher|^2, averaged over the batch
    R_i = exp(-(v_i[c] - v_{i-1}[d])^2 / 8) for channels c, d and each of `vectors` singular vectors v
    gradient of a parameter: g_labels + g_relation min(1, |g_labels| / (1 + exp(-epoch)) / |g_relation|)

    For each vector of the teacher the student's one, of the first `vectors` + 3, that is nearest to it or to its
    opposite is taken and given its sign. Vectors are scaled by the teacher's singular values, which have norm 1
    together. All this follows the authors' second code (KD_methods_with_TF), whose single vector makes that scale 1.
    The bound of the gradient is that of the paper and of the first code, for each parameter, with epochs counted as 200
    in a run. So is alpha: they halve the loss and sum it over batches of 128. Tian et al. (2020) have 1 and leave the
    bound out. mdistiller's version takes the singular vectors over the columns of maps, not over their channels.

    The teacher's signs, which a decomposition leaves open, are set so that the entries' sum is not negative. Singular
    vectors get the exact gradient, but for pairs of equal singular values, whose part of it is left out. Student and
    teacher need stages of the same widths; where they differ, the student's pass through a 1x1 convolution with
    BatchNorm, to which the bound does not apply as the labels give it no gradient.
    """

    name, family = "kdsvd", "relation"
    paper = Paper(
        title="Self-supervised Knowledge Distillation Using Singular Value Decomposition",
        authors=("Seung Hyun Lee", "Dae Ha Kim", "Byung Cheol Song"),
        year=2018, venue="ECCV", arxiv="1807.06819", doi="10.1007/978-3-030-01231-1_21",
    )
    ranges = {"alpha": (0.1, 1000.0), "vectors": (1, 4)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 64.0, vectors: int = 1):
        super().__init__(ctx)
        self.alpha, self.vectors = alpha, vectors
        self.adapters = width_adapters(ctx.student_shapes.stages, ctx.teacher_shapes.stages)

    @classmethod
    def inapplicable(cls, student, teacher):
        if min(len(student.stages), len(teacher.stages)) < 2:
            return "a relation is that of one stage to the next, and one of the networks has a single stage"
        return None

    def step(self, batch, optimizers):
        terms = self.losses(batch, self.study(batch), self.teach(batch))
        parameters = list(self.parameters())
        self.zero_grad(set_to_none=True)
        terms["ce"].backward(retain_graph=True)
        of_labels = [parameter.grad for parameter in parameters]
        self.zero_grad(set_to_none=True)
        terms["relation"].backward()
        bound = 1 / (1 + math.exp(-AUTHORS_EPOCHS * self.progress))
        for parameter, gradient in zip(parameters, of_labels, strict=True):
            parameter.grad = bounded_sum(gradient, parameter.grad, bound)
        optimizers["main"].step()
        return terms

    def losses(self, batch, student, teacher):
        ours, theirs = zip(*pair_stages(student.stages, teacher.stages), strict=True)
        ours = [adapt(stage) for adapt, stage in zip(self.adapters, ours, strict=True)]
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "relation": self.alpha * relation_loss(ours, theirs, self.vectors),
        }


def bounded_sum(main, side, bound):
    """The gradient `main` plus `side`, the latter scaled down to at most `bound` times the former's norm; the one of
    the two that is not None if the other is."""
    if main is None or side is None:
        return side if main is None else main
    return main + side * (bound * main.norm() / side.norm().clamp(min=1e-12)).clamp(max=1)


def relation_loss(student, teacher, vectors):  # lists of stages [B, C_i, H, W], pairwise of the same widths
    """The squared difference of the relations of consecutive stages' singular vectors, summed over them and averaged
    over the batch."""
    features = [paired_vectors(s, t, vectors) for s, t in zip(student, teacher, strict=True)]
    return sum((relation(s, below_s) - relation(t, below_t)).square().sum()
               for (below_s, below_t), (s, t) in pairwise(features)) / len(student[0])


def paired_vectors(student, teacher, vectors):  # [B, C, H, W], [B, C, H', W'] -> [B, C, vectors] twice
    """The first singular vectors of the teacher, and for each the nearest of the student's with its sign, all scaled by
    the teacher's singular values."""
    theirs, values = singular_vectors(teacher, vectors)
    theirs = theirs * torch.where(theirs.sum(1, keepdim=True) < 0, -1.0, 1.0)
    ours, _ = singular_vectors(student, theirs.shape[2] + SPARE)
    cosines = ours.mT @ theirs  # [B, vectors + SPARE, vectors]
    nearest = cosines.detach().abs().argmax(1, keepdim=True)
    signs = cosines.detach().gather(1, nearest).sign()
    ours = ours.gather(2, nearest.expand(-1, ours.shape[1], -1)) * signs
    scale = F.normalize(values, dim=1)[:, None]
    return ours * scale, theirs * scale


def relation(vectors, below):  # [B, C, V], [B, D, V'] -> [B, C, D, min(V, V')]
    count = min(vectors.shape[2], below.shape[2])
    return (-(vectors[:, :, None, :count] - below[:, None, :, :count]).square() / 8).exp()


def singular_vectors(stage, count):  # [B, C, H, W] -> [B, C, V], [B, V]
    """The first right singular vectors of each image's matrix [HW, C], or as many as it has, and their values.

    The decomposition itself has no gradient. That of a vector v to the value s comes from its first-order change with
    A, the matrix's square: sum_j v_j (v_j . dA v) / (s^2 - s_j^2) over the others, and dA v / s^2 outside of them.
    """
    matrix = stage.flatten(2).mT
    with torch.no_grad():
        _, values, rows = torch.linalg.svd(matrix, full_matrices=False)
    basis, squares = rows.mT, values.square()
    vectors, own = basis[..., :count], squares[:, None, :count]
    if not stage.requires_grad:
        return vectors, values[:, :count]
    image = matrix.mT @ (matrix @ vectors)
    change = image - image.detach()
    inside = basis.mT @ change
    least = 1e-5 * squares[:, :1, None].clamp(min=1e-12)  # what float32 tells apart
    turned = basis @ (inside * inverse(own - squares[..., None], least))
    return vectors + turned + (change - basis @ inside) * inverse(own, least), values[:, :count]


def inverse(gaps, least):
    """1 / gap, and 0 for gaps smaller than `least` in size."""
    small = gaps.abs() < least
    return torch.where(small, 0.0, 1 / gaps.masked_fill(small, 1.0))
