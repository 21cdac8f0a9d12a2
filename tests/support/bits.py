"""Run as a program: what a processor makes of three small networks and of single operations on "cpu-portable", as
digests, a line each."""

import hashlib

import torch
import torch.nn.functional as F

from kdbench.networks import build
from kdbench.spec import Architecture
from kdbench.train.process import make_deterministic

NETWORKS = {
    "ResNet, SGD": (Architecture(model="resnet_cifar", kwargs={
        "blocks": 1, "stem": 8, "channels": [8, 16, 32], "stride": 2}), torch.optim.SGD),
    "ViT, AdamW": (Architecture(model="test_vit", kwargs={
        "img_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2}), torch.optim.AdamW),
    "LCNet, SGD": (Architecture(model="lcnet_035"), torch.optim.SGD),
}


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:16]


def trained(architecture: Architecture, optimizer: type[torch.optim.Optimizer]) -> str:
    """The digest of a network after two steps on random images."""
    torch.manual_seed(0)
    network = build(architecture, 10, (1, 28, 28))
    steps = optimizer(network.parameters(), lr=0.01)
    for _ in range(2):
        loss = F.cross_entropy(network(torch.randn(16, 1, 28, 28)).logits, torch.randint(10, (16,)))
        steps.zero_grad()
        loss.backward()
        steps.step()
    return digest(*network.state_dict().values())


def operations() -> dict[str, str]:
    """Digests of what losses are made of: products, square roots, exponentials, decompositions."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 100), torch.randn(50, 100)
    return {name: digest(value) for name, value in {
        "matmul": x @ y.T, "bmm": torch.bmm(x.view(5, 10, 100), y.view(5, 100, 10)), "cdist": torch.cdist(x, y),
        "sqrt": x.abs().sqrt(), "sqrt double": x.double().abs().sqrt(), "exp": x.exp(), "log": x.abs().log(),
        "erf": x.erf(), "tanh": x.tanh(), "softmax": x.softmax(1), "std": x.std(0), "norm": x.norm(dim=1),
        "svd": torch.linalg.svd(x)[1], "eigh": torch.linalg.eigh(x @ x.T)[1], "inv": torch.linalg.inv(x @ x.T),
        "conv": F.conv2d(x.view(1, 8, 25, 25), y[:, :72].reshape(50, 8, 3, 3))}.items()}


if __name__ == "__main__":
    make_deterministic("cpu-portable")
    for name, of in NETWORKS.items():
        print(f"{name}: {trained(*of)}", flush=True)
    for name, found in operations().items():
        print(f"{name}: {found}", flush=True)
