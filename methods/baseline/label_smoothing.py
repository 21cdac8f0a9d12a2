import torch.nn.functional as F

from kdbench.method import Method, Paper


class LabelSmoothing(Method):
    """Plain training on labels that give a little probability to every class, without a teacher.
    The control for soft targets: it shows what their softness alone is worth, without a teacher's knowledge.

    loss = -sum_k q_k log p_k,  q_k = (1 - smoothing) [k = label] + smoothing / K

    As in the paper, the uniform part includes the label's own class.
    """

    name, family = "label_smoothing", "baseline"
    paper = Paper(
        title="Rethinking the Inception Architecture for Computer Vision",
        authors=("Christian Szegedy", "Vincent Vanhoucke", "Sergey Ioffe", "Jonathon Shlens", "Zbigniew Wojna"),
        year=2016, venue="CVPR", arxiv="1512.00567",
    )
    ranges = {"smoothing": (0.0, 0.5)}
    learns_from = None

    def __init__(self, ctx, *, smoothing: float = 0.1):
        super().__init__(ctx)
        self.smoothing = smoothing

    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels, label_smoothing=self.smoothing)}
