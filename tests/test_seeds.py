import numpy as np

from kdbench.seeds import fixed_random, fixed_randoms


def test_streams_by_position_are_those_of_the_purpose_and_the_position():
    streams = fixed_randoms("a purpose", np.array([7, 3, 7]))
    found = [(stream.normal(size=3), stream.uniform(size=2)) for stream in streams]  # an odd number keeps one aside
    expected = [fixed_random("a purpose", position) for position in ("7", "3", "7")]
    for (normal, uniform), stream in zip(found, expected, strict=True):
        assert np.array_equal(normal, stream.normal(size=3)) and np.array_equal(uniform, stream.uniform(size=2))
