"""A suite's file of any content is expanded, or refused in one line."""

import time

import pytest
from hypothesis import given, settings
from support.mutations import MUTATED, mutations

from kdbench.errors import UserError
from kdbench.plugins.registry import Registry
from kdbench.suites.plan import MAX_RUNS, Selection, expand
from kdbench.suites.suite import MAX_SEEDS, load_suite

SUITE = """description = "mine"
methods = ["ce", "kd"]
pairs = ["mine"]
datasets = ["synthetic"]
seeds = 2
teacher_seed = 7

[recipe]
epochs = 2
batch_size = 16
image_size = 16
lr = 0.1
augment = ["crop"]

[teacher_recipe]
epochs = 4

[pair.mine]
image_size = 32
teacher = { model = "test_resnet", weights = "hub:in1k" }
student = { model = "resnet_cifar", kwargs = { blocks = 1, channels = [8, 16, 32] } }

[hyperparameters.kd]
temperature = 2.0
"""
REGISTRY = Registry()


def refusal(folder, text: str | bytes, **selection) -> str | None:
    """The line that refuses a suite; None if it is expanded."""
    file = folder / "any.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        expand(load_suite(str(file)), REGISTRY, Selection(**selection))
    except UserError as error:
        assert "\n" not in " ".join(str(error).split()) and len(str(error)) < 4000
        return str(error)
    return None


@settings(MUTATED, max_examples=400)
@given(mutations(SUITE.encode()))
def test_any_bytes_are_a_suite_or_one_line(tmp_path, damaged):
    refusal(tmp_path, damaged)


@pytest.mark.parametrize(("old", "new"), [
    ("seeds = 2", "seeds = " + "[" * 100_000), ("seeds = 2", "seeds = " + "[" * 400 + "]" * 400),
    ("seeds = 2", "x = " + "{a=" * 100_000), ("seeds = 2", "seeds = " + "9" * 5000), ("seeds = 2", "seeds = 1e400"),
    ("seeds = 2", "seeds = [0, -1]"), ("seeds = 2", "seeds = [99999999999999999999]"), ("seeds = 2", "seeds = 10**9"),
    ("teacher_seed = 7", "teacher_seed = -1"), ("teacher_seed = 7", "teacher_seed = 99999999999999999999"),
    ("epochs = 4", ".".join("a" * 3_000) + " = 1"), ("epochs = 4", "epochs = [" + "1," * 100_000 + "]"),
    ("image_size = 16", "image_size = 20000"), ("batch_size = 16", "batch_size = 1000000"),
    ("temperature = 2.0", "temperature = " + "[" * 300 + "]" * 300), ("hub:in1k", "hub:../../x"), ("hub:in1k", "hub:"),
    ("hub:in1k", "file:~nobody-here/x"), ("hub:in1k", "file:" + "x" * 5000), ("hub:in1k", r"file:a\u0000b"),
    ('"synthetic"', '"imagefolder:~nobody-here/x"'), ('"synthetic"', '"imagefolder:' + "x" * 5000 + '"'),
    ('"synthetic"', r'"imagefolder:a\u0000b"'), ("blocks = 1", "blocks = 1000000"), ("blocks = 1", "pruned = true"),
    ("seeds = 2", "\n".join(f"k{i} = 1" for i in range(20_000))), ("seeds = 2", "#" + "x" * (1 << 20)),
    ('methods = ["ce", "kd"]', 'methods = ["' + "x" * 100_000 + '"]'),
])
def test_what_is_too_large_too_deep_or_no_place_is_refused_in_a_line_and_in_time(tmp_path, old, new):
    assert old in SUITE
    started = time.process_time()
    assert refusal(tmp_path, SUITE.replace(old, new, 1))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("seeds", [10**9, 10**30, MAX_SEEDS + 1, [-1], [2**63], list(range(MAX_SEEDS + 1))])
def test_more_or_larger_seeds_than_anybody_needs_are_refused_at_once(tmp_path, seeds):
    assert f"expected at most {MAX_SEEDS} of them" in refusal(tmp_path, SUITE, seeds=seeds)


def test_a_plan_of_more_runs_than_anybody_needs_is_refused_at_once(tmp_path):
    said = refusal(tmp_path, SUITE, pairs=["mine"] * 200, seeds=MAX_SEEDS)
    assert f"400000 runs, expected at most {MAX_RUNS}" in said


def test_seeds_without_end_are_refused_on_the_command_line(kdbench):
    code, _, said = kdbench("run", "smoke", "--seeds", "1000000000")
    assert (code, said.count("\n")) == (2, 1) and "at most 1000" in said
