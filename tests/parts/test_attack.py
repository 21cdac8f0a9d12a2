import torch
from torch import nn

from kdbench.parts.attack import projected_gradient

BLACK, WHITE = torch.tensor([-1.0, -2.0]).view(1, 2, 1, 1), torch.tensor([1.0, 6.0]).view(1, 2, 1, 1)


def attack(images, objective, **settings):
    settings = {"epsilon": 0.1, "step_size": 0.04, "steps": 5, "start": torch.zeros_like(images), **settings}
    return projected_gradient(images, objective, BLACK, WHITE, **settings)


def test_an_attack_on_a_linear_objective_ends_at_the_corner_of_the_ball():
    images, slope = torch.zeros(3, 2, 2, 2), torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    attacked = attack(images, lambda x: (slope * x).sum())
    # 0.1 of a pixel's range: 2 in the first channel, 8 in the second
    assert torch.allclose(attacked, torch.tensor([0.2, -0.8]).view(1, 2, 1, 1).expand_as(images))


def test_an_attack_takes_steps_of_its_size_from_its_start():
    images = torch.zeros(1, 2, 1, 1)
    once = attack(images, lambda x: x.sum(), steps=1, start=torch.full_like(images, 0.03))
    assert torch.allclose(once.flatten(), torch.tensor([0.07 * 2, 0.07 * 8]))
    assert torch.allclose(attack(images, lambda x: x.sum(), steps=0, start=torch.full_like(images, 0.03)).flatten(),
                          torch.tensor([0.06, 0.24]))


def test_attacked_pixels_stay_between_black_and_white_and_within_the_ball():
    torch.manual_seed(0)
    images = torch.rand(20, 2, 5, 5) * (WHITE - BLACK) + BLACK
    start = 0.3 * torch.randn_like(images)
    attacked = attack(images, lambda x: (x**2).sum(), epsilon=0.25, start=start)
    assert (attacked >= BLACK).all() and (attacked <= WHITE).all()
    assert ((attacked - images).abs() <= 0.25 * (WHITE - BLACK) + 1e-6).all()
    assert ((attacked - images).abs() >= 0.2 * (WHITE - BLACK)).any()


def test_an_attack_raises_a_networks_objective_and_leaves_no_gradient_behind():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
    images, labels = torch.randn(8, 2, 6, 6).clamp(BLACK, WHITE), torch.arange(8) % 4
    objective = lambda x: nn.functional.cross_entropy(network(x), labels)  # noqa: E731
    with torch.no_grad():
        before = objective(images)
        attacked = attack(images, objective)
        assert objective(attacked) > before + 0.01
    assert not attacked.requires_grad and not images.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
