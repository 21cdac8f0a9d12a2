import textwrap

import pytest

from kdbench.errors import UserError
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import read_source
from kdbench.spec import Recipe
from kdbench.tune.space import Dimension, Limits, check_names, rows, space_of

RECIPE = Recipe(epochs=2, batch_size=8, image_size=16, lr=0.1)
PLUGIN = """
    class Mine:
        name, family = "mine", "logit"
        ranges = {"a": (0.0, 2.0), "b": (1, 100), "c": (0.1, 0.9, "log"), "d": (1.0, 50.0, "linear"),
                  "mode": ("hard", "soft", "log")}

        def __init__(self, ctx, *, a: float = 1.0, b: int = 10, c: float = 0.3, d: float = 2.0, mode: str = "soft",
                     free: float = 1.0):
            pass
"""


def method(tmp_path, text=PLUGIN):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(text))
    return read_source(file, None)[0]


def space(info, overrides=None, given=None, recipe=RECIPE):
    return {one.name: one for one in space_of(info, info.resolve(given or {}), recipe, overrides or {}, "s.toml")}


def test_a_space_has_every_range_with_its_scale_and_the_recipes_rate_and_decay(tmp_path):
    found = space(method(tmp_path))
    assert found["a"].limits == (0.0, 2.0, "linear") and found["b"].limits == (1, 100, "log") and found["b"].whole
    assert found["c"].limits == (0.1, 0.9, "log") and found["d"].limits == (1.0, 50.0, "linear")
    assert found["mode"].choices == ("hard", "soft", "log") and "free" not in found
    assert found["recipe.lr"].limits == (0.01, 1.0, "log") and found["recipe.lr"].centre == 0.1
    assert found["recipe.weight_decay"].limits == (5e-5, 5e-3, "log")


def test_a_weight_decay_of_zero_is_not_tuned(tmp_path):
    assert "recipe.weight_decay" not in space(method(tmp_path), recipe=RECIPE.model_copy(update={"weight_decay": 0.0}))


def test_every_built_in_method_has_a_space_whose_centre_is_its_default():
    for info in Registry().values():
        for one in space(info).values():
            if one.limits is not None:
                assert one.value(one.position) == one.centre, (info.name, one)
                assert one.limits.low <= one.value(0.0) <= one.value(1.0) <= one.limits.high
                assert isinstance(one.value(0.3), int if one.whole else float)


def test_the_centre_is_what_the_suite_says_instead_of_the_default(tmp_path):
    assert space(method(tmp_path), given={"a": 1.5})["a"].centre == 1.5


@pytest.mark.parametrize(("scale", "low", "centre", "high", "quarter"), [
    ("linear", 0.0, 2.0, 10.0, 1.0), ("log", 1.0, 100.0, 1000.0, 10.0), ("linear", 0.0, 0.0, 8.0, 2.0),
    ("log", 1.0, 1.0, 10000.0, 10.0)])
def test_positions_go_from_low_by_the_centre_to_high_on_their_scale(scale, low, centre, high, quarter):
    one = Dimension("x", centre, Limits(low, high, scale))
    assert (one.value(0.0), one.value(0.25), one.value(1.0)) == (low, quarter, high)
    assert one.value(one.position) == centre


def test_a_suite_overrides_what_a_method_and_the_recipe_say(tmp_path):
    found = space(method(tmp_path), {"mine": {"a": [0.5, 1.5, "log"], "free": [0.5, 9], "b": "fixed",
                                              "mode": ["soft", "hard"]},
                                     "recipe": {"lr": [0.05, 0.2], "weight_decay": "fixed"}})
    assert found["a"].limits == (0.5, 1.5, "log") and found["free"].limits == (0.5, 9.0, "log")
    assert found["mode"].choices == ("soft", "hard") and found["recipe.lr"].limits == (0.05, 0.2, "linear")
    assert not {"b", "recipe.weight_decay"} & found.keys()


@pytest.mark.parametrize(("owner", "name", "written", "message"), [
    ("mine", "a", [1.5, 0.5], "s.toml: space.mine.a: an empty range, 1.5 to 0.5"),
    ("mine", "a", [1.0, 1.0], "s.toml: space.mine.a: an empty range"),
    ("mine", "a", [1.5, 2.0], "space.mine.a: contradictory: the value without tuning, 1.0, lies outside 1.5 to 2.0"),
    ("mine", "a", [0.0, 1.0, "log"], "space.mine.a: contradictory: a logarithmic scale begins above zero"),
    ("mine", "a", [0.5, 3.0], "space.mine.a: 3.0 is out of range, allowed: 0.0 to 2.0"),
    ("mine", "a", [0.5, 1.5, "square"], "space.mine.a: expected"),
    ("mine", "a", [], "space.mine.a: expected"), ("mine", "a", 1.0, "space.mine.a: expected"),
    ("mine", "a", [0.5, "x"], "space.mine.a: expected"), ("mine", "b", [1.5, 20.5], "space.mine.b: expected int"),
    ("mine", "mode", ["hard", "log"], "space.mine.mode: contradictory"),
    ("mine", "mode", ["soft", "soft"], "space.mine.mode: a choice is named twice"),
    ("mine", "mode", ["soft", "odd"], "space.mine.mode: 'odd' is out of range"),
    ("recipe", "lr", [0.0, 1.0], "space.recipe.lr: a rate is above zero"),
    ("recipe", "lr", [-1.0, 1.0], "space.recipe.lr: -1.0 is out of range"),
    ("recipe", "lr", [0.2, 1.0], "space.recipe.lr: contradictory"),
])
def test_an_empty_or_contradictory_range_of_a_suite_is_refused_by_name(tmp_path, owner, name, written, message):
    with pytest.raises(UserError) as error:
        space(method(tmp_path), {owner: {name: written}})
    assert message in str(error.value)


@pytest.mark.parametrize(("overrides", "message"), [
    ({"mime": {}}, "unknown method of s.toml: space 'mime'; did you mean 'mine'?"),
    ({"mine": {"e": [0, 1]}}, "unknown value of s.toml: space.mine 'e'"),
    ({"recipe": {"epochs": [1, 2]}}, "unknown value of s.toml: space.recipe 'epochs'")])
def test_a_space_of_what_does_not_exist_is_refused(tmp_path, overrides, message):
    with pytest.raises(UserError) as error:
        check_names(overrides, {"mine": method(tmp_path)}, "s.toml")
    assert message in str(error.value)


@pytest.mark.parametrize(("written", "message"), [
    ('(0.0, 2.0, "log")', "a logarithmic scale begins above zero"), ("(2.0, 0.0)", "an empty range, 2.0 to 0.0"),
    ('(0.1, 2.0, "cubic")', "expected (low, high)"), ("(1.0,)", "expected (low, high)"), ("3.0", "expected a tuple")])
def test_a_methods_own_range_that_makes_no_sense_is_refused(tmp_path, written, message):
    with pytest.raises(UserError) as error:
        method(tmp_path, PLUGIN.replace("(0.0, 2.0)", written))
    assert message in str(error.value) and "ranges['a']" in str(error.value)


def test_a_space_can_be_shown_without_a_suite(tmp_path):
    shown = {row["tuned"]: (row["space"], row["centre"]) for row in rows(method(tmp_path))}
    assert shown["b"] == ("1 to 100, log", "10") and shown["mode"] == ("hard, soft, log", "soft")
    assert shown["recipe.lr"] == ("a factor 10 to either side, log", "the suite's")
