import torch

from kdbench.blocks import match_resolution, pair_stages, projection


def test_stages_are_paired_from_the_deep_end():
    assert pair_stages("abcd", "yz") == [("c", "y"), ("d", "z")]
    assert pair_stages("ab", "xyz") == [("a", "y"), ("b", "z")]


def test_the_larger_map_is_averaged_to_the_smaller_in_each_direction():
    a, b = torch.arange(8.0).view(1, 1, 2, 4), torch.ones(1, 3, 1, 8)
    a_small, b_small = match_resolution(a, b)
    assert a_small.tolist() == [[[[2.0, 3.0, 4.0, 5.0]]]]
    assert b_small.shape == (1, 3, 1, 4)
    same = match_resolution(a, a)
    assert same[0] is a and same[1] is a


def test_a_projection_maps_channels_and_keeps_positions_apart():
    adapter = projection(3, 5).eval()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(adapter(x.flip(3)), adapter(x).flip(3))
    assert adapter(x).shape == (2, 5, 4, 4)
