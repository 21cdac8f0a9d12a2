import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.stages import projection


class SRRL(Method):
    """The student's feature, mapped to the teacher's width, must equal the teacher's and give the teacher's logits in
    the teacher's own classifier. The student keeps a classifier of its own, which the labels train.

    loss = CE(student, labels) + alpha mean((f - t)^2) + beta mean((W_t f - W_t t)^2),  f = mean_positions connector(s)

    s is the student's last stage, t the teacher's embedding and W_t the teacher's classifier; the means are over batch
    and width, or classes. Weights of 1, the connector (a 1x1 convolution, BatchNorm and ReLU) and its initialisation
    are those of the authors' code, which is for ImageNet. As t is the mean of the teacher's last stage there, the
    connector ends in a rectifier; where the teacher's classifier reads something else (a transformer), t may be
    negative and the connector ends without one.
    """

    name, family = "srrl", "feature"
    paper = Paper(
        title="Knowledge distillation via softmax regression representation learning",
        authors=("Jing Yang", "Brais Martinez", "Adrian Bulat", "Georgios Tzimiropoulos"),
        year=2021, venue="ICLR",
    )
    ranges = {"alpha": (0.0, 100.0), "beta": (0.0, 100.0)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 1.0, beta: float = 1.0):
        super().__init__(ctx)
        self.alpha, self.beta = alpha, beta
        self.connector = projection(ctx.student_shapes.stages[-1][0], ctx.teacher_shapes.embedding)
        nn.init.kaiming_normal_(self.connector[0].weight, mode="fan_out")
        if ctx.teacher_shapes.pooled:
            self.connector.append(nn.ReLU())

    def losses(self, batch, student, teacher):
        feature = self.connector(student.stages[-1]).mean((2, 3))
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "feature": self.alpha * F.mse_loss(feature, teacher.embedding),
            "regression": self.beta * regression_loss(feature, teacher.embedding, self.ctx.teacher.classifier),
        }


def regression_loss(feature, target, classifier):  # both [B, D]
    """The mean squared difference of the logits that the classifier gives two features."""
    return F.mse_loss(classifier(feature), classifier(target))
