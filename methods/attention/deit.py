import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from kdbench.method import Method, Outputs, Paper


class DeiT(Method):
    """A transformer gets a second token beside its class token, which attends to the patches like that one. It learns
    the teacher's decision, the class token the label.

    loss = CE(z_class, labels) + alpha CE(z_distillation, argmax teacher)

    z_class are the student's logits, z_distillation those of a second linear classifier, on what the distillation token
    has become. The deployed network averages the two, as the authors' code does; the paper adds their probabilities.
    Paper and code weight both terms by 1/2, for AdamW, which does not see the scale of a loss. For SGD we leave the
    factor out, so that each classifier learns as fast as that of plain training. This is the paper's hard distillation,
    better there than the soft form. Its token has a position embedding of its own, which is part of the token here. The
    paper's augmentation, label smoothing and length of training are left to the recipe, which all methods share.

    Only timm's plain vision transformers with a class token have a place for the token. For any other student (a
    convolutional network, a transformer that pools) the second classifier reads the embedding, as the first does. That
    is hard distillation without the token, which in the paper is a little worse than with it.
    """

    name, family = "deit", "attention"
    paper = Paper(
        title="Training data-efficient image transformers & distillation through attention",
        authors=("Hugo Touvron", "Matthieu Cord", "Matthijs Douze", "Francisco Massa", "Alexandre Sablayrolles",
                 "Hervé Jégou"),
        year=2021, venue="ICML", arxiv="2012.12877",
    )
    ranges = {"alpha": (0.0, 10.0)}
    unlabelled = "beside"
    conditions = ("with kd",)

    def __init__(self, ctx, *, alpha: float = 1.0):
        super().__init__(ctx)
        self.alpha = alpha
        self.head = nn.Linear(ctx.student_shapes.embedding, ctx.num_classes)
        self.token = None
        if has_place(ctx.student.model):
            self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(ctx.student_shapes.embedding), std=0.02))

    def study(self, batch):
        """The student's outputs, and the feature that the second classifier reads."""
        return distilled(self.student, batch.images, self.token)

    def losses(self, batch, student, teacher):
        outputs, feature = student
        decision = teacher.logits.argmax(1)
        return {
            "ce": F.cross_entropy(outputs.logits, batch.labels),
            "kd": self.alpha * F.cross_entropy(self.head(feature), decision),
        }

    def deployed(self):
        return TwoHeads(self.student, self.head, self.token)


def has_place(model):
    """Whether a timm model is a plain vision transformer whose classifier reads its class token."""
    return type(model) is VisionTransformer and model.global_pool == "token"


def distilled(network, images, token):  # images [B, C, H, W], token [D] or None
    """The network's outputs, and the feature [B, D] of the second classifier: what the token became that went through
    the transformer behind its prefix tokens or, without one, the embedding."""
    if token is None:
        outputs = network(images)
        return outputs, outputs.embedding
    model, place = network.model, network.model.num_prefix_tokens
    became = []

    def insert(module, arguments, tokens):
        own = token.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        return torch.cat([tokens[:, :place], own, tokens[:, place:]], dim=1)

    handles = [model.norm_pre.register_forward_hook(insert),
               model.norm.register_forward_hook(lambda module, arguments, tokens: became.append(tokens[:, place]))]
    model.num_prefix_tokens = place + 1  # so that the token is not taken for a patch
    try:
        outputs = network(images)
    finally:
        model.num_prefix_tokens = place
        for handle in handles:
            handle.remove()
    return outputs, became[-1].float()


class TwoHeads(nn.Module):
    """A student whose logits are the mean of its own and of the second classifier's."""

    def __init__(self, student, head, token):
        super().__init__()
        self.student, self.head, self.token = student, head, token

    def forward(self, images):
        outputs, feature = distilled(self.student, images, self.token)
        return Outputs((outputs.logits + self.head(feature)) / 2, outputs.embedding, outputs.stages)
