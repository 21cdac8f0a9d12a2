"""What the teacher's stages teach must reach the student, in every method that learns from them."""

import pytest
import torch
from support.methods import first_batch, trainer

from kdbench_methods.attention.afd import AFD
from kdbench_methods.attention.at import AttentionTransfer
from kdbench_methods.attention.cat_kd import CATKD
from kdbench_methods.attention.semckd import SemCKD
from kdbench_methods.feature.ab import ActivationBoundaries
from kdbench_methods.feature.fitnet import FitNet
from kdbench_methods.feature.ft import FactorTransfer
from kdbench_methods.feature.mgd import MGD
from kdbench_methods.feature.nst import NST
from kdbench_methods.feature.ofa import OFA
from kdbench_methods.feature.ofd import OFD
from kdbench_methods.feature.reviewkd import ReviewKD
from kdbench_methods.feature.simkd import SimKD
from kdbench_methods.feature.srrl import SRRL
from kdbench_methods.feature.vid import VID
from kdbench_methods.relation.ickd import ICKD
from kdbench_methods.relation.kdsvd import KDSVD


@pytest.mark.parametrize("cls, term, step_index", [
    (FitNet, "hint", 0), (VID, "vid", 6), (OFD, "ofd", 6), (ReviewKD, "review", 6), (SimKD, "feature", 6),
    (FactorTransfer, "factor", 6), (AttentionTransfer, "attention", 6), (CATKD, "cat", 6), (SemCKD, "semckd", 6),
    (AFD, "afd", 6), (NST, "nst", 6), (ActivationBoundaries, "boundary", 0), (KDSVD, "relation", 6),
    (MGD, "mgd", 6), (OFA, "ofa", 6), (SRRL, "feature", 6), (ICKD, "correlation", 6),
])
def test_the_gradient_of_the_transfer_term_reaches_the_students_first_layer_and_no_teacher(cls, term, step_index):
    training = trainer(cls)
    method, batch = training.method, first_batch(training)
    method.step_index = step_index
    teacher = method.teach(batch)
    assert not any(stage.requires_grad for stage in teacher.stages)
    loss = method.losses(batch, method.study(batch), teacher)[term]
    gradient, = torch.autograd.grad(loss, [method.student.model.conv1.weight])
    assert gradient.abs().sum() > 0
