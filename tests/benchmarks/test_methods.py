"""What a step of each method costs, as a multiple of a step of `ce` in the same minute.

    pytest --benchmark-only -s tests/benchmarks/test_methods.py
"""

import statistics

import pytest
from pair import REGISTRY, seconds, trainer_of

from kdbench.spec import Recipe

STEPS, BATCH = 4, 128
RECIPE = Recipe(epochs=1000, batch_size=BATCH, image_size=32, lr=1e-4, augment=("crop",))


@pytest.fixture(scope="module")
def ce():
    return trainer_of("ce", RECIPE, STEPS * BATCH).train_epoch


@pytest.mark.parametrize("method", REGISTRY)
def test_step_relative_to_ce(benchmark, ce, method):
    epoch = trainer_of(method, RECIPE, STEPS * BATCH).train_epoch
    epoch(), ce()
    ratios = []
    benchmark.pedantic(lambda: ratios.append(seconds(epoch) / seconds(ce)), rounds=5)
    benchmark.extra_info["ratio"] = round(statistics.median(ratios), 2)
    print(f"\n{method}: {statistics.median(ratios):.2f} x ce")
