from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper


class OFA(Method):
    """Between networks of different kinds features do not compare, but logits do. A branch on each of the student's
    stages turns it into logits, and all of them learn the teacher's last answer, the more of its target class the surer
    the teacher is.

    loss = CE(student, labels) + kd distance(student, teacher) + alpha sum_{stages} distance(branch(stage), teacher)
    distance(z, teacher) = -sum_k ((p_k + [k = label])^gamma - [k = label]) log softmax(z / temperature)_k,
    averaged over the batch, with p the teacher's probabilities at the temperature.

    With gamma 1 the distance is the cross-entropy with p. In the paper's equation gamma raises the target's 1 + p
    alone; the authors' code, followed here, also raises the other p, and takes the label's 1 away again. The weights
    and the temperature are those of the code, gamma 1.5 that of its README's command for ImageNet; the command for
    CIFAR-100 has 1, the code's default.

    A branch is the code's for convolutional students: a block of separable convolutions for each of the stages that
    follow, at a stride where the resolution falls, or a 1x1 convolution on the last one; then the mean over positions
    and a linear layer. The code gives transformers attention blocks in their place. Here their stages are maps like
    others, so that one branch serves every student.
    """

    name, family = "ofa", "feature"
    paper = Paper(
        title="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        authors=("Zhiwei Hao", "Jianyuan Guo", "Kai Han", "Yehui Tang", "Han Hu", "Yunhe Wang", "Chang Xu"),
        year=2023, venue="NeurIPS", arxiv="2310.19444",
    )
    ranges = {"alpha": (0.0, 10.0), "kd": (0.0, 10.0), "gamma": (0.5, 3.0), "temperature": (1.0, 10.0)}
    conditions = ("with kd",)

    def __init__(self, ctx, *, alpha: float = 1.0, kd: float = 1.0, gamma: float = 1.5, temperature: float = 1.0):
        super().__init__(ctx)
        self.alpha, self.kd, self.gamma, self.temperature = alpha, kd, gamma, temperature
        shapes = ctx.student_shapes.stages
        width = max(ctx.student_shapes.embedding, ctx.teacher_shapes.embedding)
        self.branches = nn.ModuleList(Branch(shapes[i:], width, ctx.num_classes) for i in range(len(shapes)))

    def losses(self, batch, student, teacher):
        def distance(logits):
            return ofa_loss(logits, teacher.logits, batch.labels, self.gamma, self.temperature)

        branches = [branch(stage) for branch, stage in zip(self.branches, student.stages, strict=True)]
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "kd": self.kd * distance(student.logits),
            "ofa": self.alpha * sum(distance(logits) for logits in branches),
        }


def ofa_loss(student_logits, teacher_logits, labels, gamma, temperature):  # [B, K] twice, [B]
    """The cross-entropy with the teacher's probabilities, its target class enhanced by the power `gamma`."""
    label = F.one_hot(labels, student_logits.shape[1])
    target = (F.softmax(teacher_logits / temperature, dim=1) + label) ** gamma - label
    return -(target * F.log_softmax(student_logits / temperature, dim=1)).sum(1).mean()


class Branch(nn.Module):
    """Maps a stage [B, C, H, W] to logits [B, K]; `shapes` are those of the stage and of all that follow it."""

    def __init__(self, shapes, width, num_classes):
        super().__init__()
        channels = [*(shape[0] for shape in shapes[:-1]), width]
        strides = [-(-shape[1] // following[1]) for shape, following in pairwise(shapes)]
        if strides:
            self.layers = nn.Sequential(*(separable(i, o, stride) for (i, o), stride in
                                          zip(pairwise(channels), strides, strict=True)))
        else:
            self.layers = nn.Conv2d(shapes[-1][0], width, 1)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, stage):
        return self.classifier(self.layers(stage).mean((2, 3)))


def separable(channels_in, channels_out, stride):
    """Two depthwise 3x3 convolutions, each followed by a 1x1 convolution, BatchNorm and a rectifier; the first has the
    stride, the last the new width."""
    made = []
    for width, step in ((channels_in, stride), (channels_out, 1)):
        made += [nn.Conv2d(channels_in, channels_in, 3, step, 1, groups=channels_in, bias=False),
                 nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*made)
