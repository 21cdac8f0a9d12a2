"""What a wheel holds: kdbench and its methods, suites, pairs and templates."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kdbench.plugins.registry import Registry
from kdbench.suites.suite import built_in_suites

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_wheel_holds_everything_that_the_checkout_runs_with(tmp_path):
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True,
                   capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert not [name for name in names if name.startswith("tests") or name.endswith(".npz")]
    printed = {}
    for things in ("methods", "suites"):
        code = (f"import sys; sys.argv = ['kdbench', 'list', '{things}', '--json']\n"
                "from kdbench.cli.main import main; main()")
        ended = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True,
                               cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")})
        printed[things] = [row["name"] for row in json.loads(ended.stdout)]
    assert printed == {"methods": list(Registry()), "suites": list(built_in_suites())}
    code = ("import kdbench, kdbench_methods; print(kdbench.__file__, kdbench_methods.__file__); "
            "from kdbench.plugins.template import write_method; from pathlib import Path; "
            "write_method('mine', 'logit', Path('.'))")
    ended = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path,
                           env={"PYTHONPATH": str(tmp_path / "site")})
    assert ended.stdout.count(str(tmp_path / "site")) == 2
    assert (tmp_path / "mine.py").exists()
