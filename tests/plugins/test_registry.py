import subprocess
import sys
import textwrap
from collections.abc import Mapping

import pytest

from kdbench.errors import UserError, nearest
from kdbench.plugins.registry import Registry, load
from kdbench.plugins.source import FAMILIES, Hyperparameter, family_order, read_source
from kdbench.plugins.template import TEMPLATES

PLUGIN = """
    import torch.nn.functional as F
    from kdbench.method import Method, Paper

    class Mine(Method):
        '''Learns something.

        More about it.
        '''
        name, family = "mine", "logit"
        paper = Paper(title="T", authors=("A B", "C D"), year=2024, venue="V", arxiv="2401.00001")
        ranges = {"weight": (0.0, 2.0), "mode": ("soft", "hard")}

        def __init__(self, ctx, *, weight: float = 1.0, steps: int = 2, mode: str = "soft", on: bool = True):
            super().__init__(ctx)

        def losses(self, batch, student, teacher):
            return {"ce": F.cross_entropy(student.logits, batch.labels)}
"""


def write(folder, text=PLUGIN, name="mine.py"):
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return file


def test_a_source_file_tells_a_methods_facts_without_being_run(tmp_path):
    (info,) = read_source(write(tmp_path, PLUGIN + "\n    raise SystemExit('was run')\n"), None)
    assert (info.name, info.family, info.idea) == ("mine", "logit", "Learns something.")
    assert (info.paper.year, info.paper.url) == (2024, "https://arxiv.org/abs/2401.00001")
    assert info.hyperparameters["weight"] == Hyperparameter("weight", "float", 1.0, (0.0, 2.0))
    assert {p.name: (p.type, p.default) for p in info.hyperparameters.values()} == {
        "weight": ("float", 1.0), "steps": ("int", 2), "mode": ("str", "soft"), "on": ("bool", True)}


def test_every_family_has_a_built_in_method():
    assert {info.family for info in Registry().values()} == set(FAMILIES)


def test_every_built_in_method_imports_as_what_its_source_says_and_names_its_paper():
    for info in Registry().values():
        assert load(info).name == info.name
        assert info.paper is not None or info.name == "ce"
        assert info.idea


def test_the_registry_is_a_mapping_of_methods_by_name():
    registry = Registry()
    assert isinstance(registry, Mapping)
    assert registry.get("kd") is registry["kd"] and "kd" in registry
    assert registry.get("kdd") is None and registry.get("kdd", "none") == "none" and "kdd" not in registry
    assert {name: info.name for name, info in registry.items()} == {name: name for name in registry}
    assert len(registry) == len(list(registry.values())) > 0


def test_asking_the_registry_for_an_unknown_method_names_the_nearest_one():
    with pytest.raises(UserError, match=r"^unknown method 'kdd'; did you mean 'kd'\? \(allowed: .*\bce\b.*\); a method "
                                        "of yours needs --plugin FILE$"):
        Registry()["kdd"]


def test_methods_stand_in_the_order_of_families_then_names_ce_first():
    infos = list(Registry().values())
    assert infos[0].name == "ce"
    families = [info.family for info in infos]
    assert families == sorted(families, key=FAMILIES.index)
    names = [info.name for info in infos if info.family == "logit"]
    assert names == sorted(names)


def test_families_that_are_not_known_sort_behind_the_others_by_name():
    assert sorted(["unknown", *FAMILIES[::-1], "mine"], key=family_order) == [*FAMILIES, "mine", "unknown"]


def test_every_family_has_a_template_and_no_two_have_the_same():
    texts = {file.name.removesuffix(".txt"): file.read_text(encoding="utf-8") for file in TEMPLATES.iterdir()}
    assert set(texts) == set(FAMILIES)
    assert len(set(texts.values())) == len(FAMILIES)


@pytest.mark.parametrize(("kind", "allowed", "text"), [
    ("float", (0.0, 2.0), "0.0 to 2.0"), ("int", (1, 4), "1 to 4"), ("str", ("soft", "hard"), "soft, hard"),
    ("float", None, "any"), ("bool", None, "any")])
def test_a_range_is_told_as_its_ends_or_its_choices(kind, allowed, text):
    assert Hyperparameter("weight", kind, 1, allowed).allowed == text


@pytest.mark.parametrize(("kind", "allowed", "choices"), [
    ("str", ("soft", "hard"), ("soft", "hard")), ("str", None, ()), ("bool", None, (False, True)),
    ("bool", (True,), (True,)), ("float", (0.0, 2.0), ()), ("int", (1, 4), ()), ("int", None, ())])
def test_booleans_and_named_strings_have_choices_and_numbers_have_none(kind, allowed, choices):
    assert Hyperparameter("weight", kind, 1, allowed).choices == choices


def test_a_plugin_file_appears_beside_the_built_in_methods(tmp_path):
    registry = Registry([write(tmp_path)])
    assert registry["mine"].file == tmp_path / "mine.py"
    assert load(registry["mine"]).__name__ == "Mine"


def test_a_later_registry_reads_what_changed_in_a_file_and_nothing_else_again(tmp_path):
    before = Registry([write(tmp_path)])
    after = Registry([write(tmp_path, PLUGIN.replace("weight: float = 1.0", "weight: float = 1.5"))])
    assert [one["mine"].hyperparameters["weight"].default for one in (before, after)] == [1.0, 1.5]
    assert before["mine"].digest != after["mine"].digest and after["kd"] is before["kd"]


def test_an_installed_package_adds_methods_by_its_entry_point(tmp_path):
    write(tmp_path, name="their_package.py")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kdbench.methods]\nmine = their_package:Mine\n")
    code = "from kdbench.plugins.registry import *; i = Registry()['mine']; print(i.module, load(i).__name__)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                             env={"PYTHONPATH": str(tmp_path)})
    assert printed.stdout.split() == ["their_package", "Mine"]


@pytest.mark.parametrize(("given", "message"), [
    ({"wieght": 1.0}, "unknown hyperparameter of mine 'wieght'; did you mean 'weight'? "
                      "(allowed: mode, on, steps, weight)"),
    ({"weight": "much"}, "mine.weight: expected float, got 'much'"),
    ({"weight": True}, "mine.weight: expected float, got True"),
    ({"weight": 3}, "mine.weight: 3.0 is out of range, allowed: 0.0 to 2.0"),
    ({"weight": float("nan")}, "mine.weight: expected a finite number, got nan"),
    ({"steps": 1.5}, "mine.steps: expected int, got 1.5"),
    ({"steps": True}, "mine.steps: expected int, got True"),
    ({"mode": "other"}, "mine.mode: 'other' is out of range, allowed: soft, hard"),
    ({"on": 1}, "mine.on: expected bool, got 1"),
])
def test_a_wrong_hyperparameter_is_named_with_what_is_allowed(tmp_path, given, message):
    info = Registry([write(tmp_path)])["mine"]
    with pytest.raises(UserError) as error:
        info.resolve(given)
    assert str(error.value) == message


def test_resolving_fills_in_defaults_and_takes_whole_numbers_for_floats(tmp_path):
    resolved = Registry([write(tmp_path)])["mine"].resolve({"weight": 2})
    assert resolved == {"weight": 2.0, "steps": 2, "mode": "soft", "on": True}
    assert type(resolved["weight"]) is float


def test_a_whole_number_as_the_default_of_a_float_resolves_as_if_it_were_given(tmp_path):
    """The run's id is a hash over the values as text, in which 1 and 1.0 differ."""
    info = Registry([write(tmp_path, PLUGIN.replace("weight: float = 1.0", "weight: float = 1"))])["mine"]
    default, given = info.resolve({})["weight"], info.resolve({"weight": 1})["weight"]
    assert (default, type(default)) == (given, type(given)) == (1.0, float)


@pytest.mark.parametrize(("old", "new", "message"), [
    ('"mine", "logit"', '"mine", "lgit"', "did you mean 'logit'?"),
    ('name, family = "mine"', 'name, family = "not a name"', "expected an identifier"),
    ("weight: float = 1.0", "weight: float", "needs a literal default"),
    ("weight: float = 1.0", "weight: float = 2 * 0.5", "needs a literal default"),
    ("weight: float = 1.0", "weight = 1.0", "annotated with one of int, float, bool, str"),
    ("weight: float = 1.0", "weight: float = 9.0", "out of range"),
    ('"weight": (0.0, 2.0)', '"wait": (0.0, 2.0)', "did you mean 'weight'?"),
    ("year=2024", "year=this_year", "with literals"),
    ("class Mine(Method):", "class Mine(Method:", "mine.py:5: the plugin fails to import"),
])
def test_a_plugin_whose_facts_cannot_be_read_is_refused_by_file_and_reason(tmp_path, old, new, message):
    assert old in PLUGIN
    with pytest.raises(UserError, match=r"mine\.py") as error:
        Registry([write(tmp_path, PLUGIN.replace(old, new))])
    assert message in str(error.value)


def test_a_plugin_that_fails_to_import_is_refused_by_file_and_reason(tmp_path):
    info = Registry([write(tmp_path, "    import nowhere_to_be_found\n" + PLUGIN)])["mine"]
    with pytest.raises(UserError, match=r"mine\.py: the plugin fails to import: ModuleNotFoundError"):
        load(info)


def test_hyperparameters_that_the_source_does_not_show_are_refused(tmp_path):
    sneaky = PLUGIN + "    Mine.__init__.__kwdefaults__['weight'] = 1.5\n"
    info = Registry([write(tmp_path, sneaky)])["mine"]
    with pytest.raises(UserError, match="literal default in the class's own __init__"):
        load(info)


def test_two_methods_of_one_name_are_refused_with_both_places(tmp_path):
    first, second = write(tmp_path), write(tmp_path, name="again.py")
    with pytest.raises(UserError) as error:
        Registry([first, second])
    assert "two methods are named 'mine'" in str(error.value)
    assert str(first) in str(error.value) and str(second) in str(error.value)


def test_a_plugin_file_without_a_method_is_refused(tmp_path):
    with pytest.raises(UserError, match="no class in it has a literal `name` and `family`"):
        Registry([write(tmp_path, "x = 1\n")])
    with pytest.raises(UserError, match="no such file"):
        Registry([tmp_path / "nowhere.py"])


@pytest.mark.parametrize(("written", "culprit"), [
    ("self, ctx, alpha: float = 1.0", "alpha"), ("self, ctx, /, alpha: float = 1.0", "alpha"),
    ("self, ctx, *alphas", "*alphas"), ("self, ctx, **alphas", "**alphas")])
def test_a_hyperparameter_that_is_not_keyword_only_is_refused_by_name(tmp_path, written, culprit):
    file = tmp_path / "mine.py"
    file.write_text(f"class Mine:\n    name, family = 'mine', 'logit'\n    def __init__({written}): ...\n")
    with pytest.raises(UserError) as error:
        Registry([file])
    assert str(error.value).startswith(f"{file}:1: Mine.__init__({culprit}): hyperparameters stand by name after a `*`")


def test_of_many_names_the_nearest_are_told_and_a_far_one_is_none_of_them():
    names = [f"resnet{number}" for number in range(150)]
    assert nearest("RESNET18", names).startswith("; did you mean 'resnet18'? (the nearest: resnet18, ")
    assert nearest("RESNET18", names).endswith("; 150 are allowed)") and nearest("RESNET18", names).count("resnet") == 6
    assert nearest("zzz", names) == " (150 are allowed)"
    assert "did you mean" not in nearest("mnist5k", ["dist", "kd"])


def test_names_that_differ_by_case_alone_are_all_listed():
    assert nearest("x", ["Cat", "cat"]) == " (allowed: Cat, cat)"
