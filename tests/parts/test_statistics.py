import torch
from timm.layers import BatchNormAct2d
from torch import nn

from kdbench.parts.statistics import batch_statistics


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), BatchNormAct2d(3), nn.Dropout(0.5))


def running(net):
    return [buffer.clone() for buffer in net.buffers()]


def test_it_normalises_by_the_batch_and_records_nothing():
    net, images = network().eval(), 5 + torch.randn(8, 2, 4, 4)
    before = running(net)
    with batch_statistics(net):
        once, again = net(images), net(images)
    assert torch.equal(once, again)  # dropout stays off
    assert all(torch.equal(a, b) for a, b in zip(before, running(net), strict=True))
    mapped = net[0](images)
    variance, mean = torch.var_mean(mapped, (0, 2, 3), unbiased=False, keepdim=True)
    normed = (mapped - mean) / variance.sqrt()
    torch.testing.assert_close(once, normed.clamp(min=0), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(net(images), once, atol=0.1)  # in eval mode again


def test_a_network_in_training_records_again_afterwards_even_after_an_error():
    net, images = network().train(), torch.randn(8, 2, 4, 4)
    try:
        with batch_statistics(net):
            net(images)
            raise ValueError
    except ValueError:
        pass
    assert net[1].num_batches_tracked == 0
    net(images)
    assert net[1].num_batches_tracked == net[2].num_batches_tracked == 1
