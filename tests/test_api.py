"""kdbench from Python: the example of the docs, and what its functions promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kdbench as package
from kdbench.errors import UserError
from kdbench.results.store import Store

PAGE = Path(__file__).parent.parent / "docs" / "pages" / "guide" / "running.md"


def example() -> str:
    """The Python code of the page's section about Python, on the smoke suite instead of quick."""
    section = PAGE.read_text().split("## From Python")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code.replace('"quick"', '"smoke"').replace("runs/quick", "runs/smoke")


@pytest.mark.slow
def test_the_docs_example_runs_and_its_parent_never_imports_torch_to_train(tmp_path, cache):
    trained, used = example().split("student = ")
    code = f"import sys\n{trained}\nassert 'torch' not in sys.modules\nstudent = {used}\nprint(table.dtypes)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records, problems = Store(tmp_path / "runs" / "smoke").read()
    assert not problems and {r.spec.method for r in records if r.role == "student"} == {"ce", "kd"}


def test_a_run_says_how_many_were_done_and_where_and_does_nothing_twice(tmp_path):
    asked = {"methods": ["ce"], "seeds": [4], "settings": {"recipe.epochs": 1}}
    first = package.run("smoke", out=tmp_path / "out", workers=1, **asked)
    again = package.run("smoke", out=str(tmp_path / "out"), **asked)
    assert (first.trained, first.skipped, first.failed, first.folder) == (1, 0, 0, tmp_path / "out")
    assert (again.trained, again.skipped) == (0, 1)
    (student,) = (r for r in Store(tmp_path / "out").read()[0] if r.role == "student")
    assert (student.spec.seed, student.spec.recipe.epochs) == (4, 1)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"methods": ["kdd"]}, "did you mean 'kd'"), ({"settings": {"kd.temp": 4}}, "did you mean 'temperature'"),
    ({"settings": {"epochs": 4}}, "expected 'METHOD.HYPERPARAMETER', 'recipe.NAME' or 'transfer.NAME'"),
    ({"seeds": 0}, "seeds: expected one at least"), ({"seeds": []}, "seeds: expected one at least"),
    ({"pairs": ["none"]}, "unknown pair 'none'"), ({"plugins": ["absent.py"]}, "absent.py: no such file"),
])
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        package.run("smoke", out=tmp_path / "out", **arguments)
    with pytest.raises(UserError) as again:
        package.plan("smoke", out=tmp_path / "out", **arguments)
    assert str(again.value) == str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_plan_tells_of_the_runs_to_do_in_a_parent_without_torch(tmp_path):
    code = ("import sys, kdbench\nfound = kdbench.plan('smoke', methods=['ce', 'kd'], seeds=[7], workers=3)\n"
            "assert 'torch' not in sys.modules\n"
            "print(found.runs, found.workers, found.folder, [row.method for row in found.rows], found.seconds > 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 3 runs/smoke ['teachers', 'ce', 'kd'] True\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_results_or_an_unknown_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no records here"):
        package.leaderboard(tmp_path)
    with pytest.raises(UserError, match="no records here"):
        package.load_student(tmp_path, "abc")


def test_importing_the_package_imports_none_of_its_libraries():
    code = "import sys, kdbench; print([m for m in ('torch', 'numpy', 'pandas', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
