import torch.nn.functional as F

from kdbench.method import Method, Paper


class PSKD(Method):
    """The labels are softened by the student's own prediction for the same image one epoch ago. The weight of that
    prediction grows over the run, as the student gets better.

    loss = (1 - w) CE(student, labels) + w CE(student, student of the last epoch),  w = alpha epoch / epochs

    Epochs count from 1. The memory holds one probability vector per training image, predicted in training mode on the
    view that was trained on, as in the authors' code; in the first epoch it holds the labels. alpha 0.8 is the paper's.
    """

    name, family = "ps_kd", "self"
    paper = Paper(
        title="Self-Knowledge Distillation with Progressive Refinement of Targets",
        authors=("Kyungyul Kim", "ByeongMoon Ji", "Doyoung Yoon", "Sangheum Hwang"),
        year=2021, venue="ICCV", arxiv="2006.12000",
    )
    ranges = {"alpha": (0.0, 1.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 0.8):
        super().__init__(ctx)
        self.alpha = alpha
        self.register_buffer("memory", F.one_hot(ctx.train_labels, ctx.num_classes).float())  # [num_train, K]

    def weight(self):
        """The weight of the remembered predictions in the current epoch, above 0 and at most alpha."""
        epoch = self.step_index // self.ctx.steps_per_epoch
        return self.alpha * (epoch + 1) / self.ctx.epochs

    def losses(self, batch, student, teacher):
        weight, past = self.weight(), self.memory[batch.positions]
        self.memory[batch.positions] = F.softmax(student.logits.detach(), dim=1)
        return {
            "ce": (1 - weight) * F.cross_entropy(student.logits, batch.labels),
            "past": weight * F.cross_entropy(student.logits, past),
        }
