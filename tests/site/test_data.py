"""The tables of a site: what they hold, in both formats, and the card that says it."""

import hashlib
import json
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from support.records import record, spec
from support.sites import pages, suite_folder

from kdbench.plugins.registry import Registry
from kdbench.report.columns import meaning
from kdbench.report.flat import COLUMNS, RUN_COLUMNS, runs_to_frame, to_frame
from kdbench.results.store import Store
from kdbench.site.build import publish
from kdbench.site.data import TABLES

REAL = Registry()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    suite_folder(place / "one", "one", pairs=("big-small", "deep-flat"))
    store = Store(suite_folder(place / "two", "two", methods=("ce", "kd"), seeds=2))
    store.write(record(spec("at", 0, dataset="mnist5k"), status="crashed", reason="=memory", suite="two"))
    publish([str(place / "one"), str(place / "two")], place / "site", REAL)
    return place


@pytest.fixture(scope="module")
def frames(made):
    """By table and format, what pandas reads."""
    data = made / "site" / "data"
    return {(name, kind): getattr(pd, f"read_{kind}")(data / f"{name}.{kind}") for name in TABLES
            for kind in ("csv", "parquet")}


def test_the_tables_have_the_rows_and_runs_of_all_suites(made, frames):
    from kdbench.analysis.build import build

    for name, of_folder in (("rows", lambda folder: to_frame(build(folder, REAL))),
                            ("runs", lambda folder: runs_to_frame(Store(folder)))):
        found = frames[name, "parquet"]
        assert found.suite.value_counts().to_dict() == {suite: len(of_folder(made / suite)) for suite in ("one", "two")}
        assert list(found.columns) == list(TABLES[name])
    one = frames["rows", "parquet"].query("suite == 'one'").reset_index(drop=True)
    expected = to_frame(build(made / "one", REAL))
    for column in ("method", "test_accuracy_mean", "difference_to_ce_low", "seeds", "results"):
        assert one[column].astype(object).where(one[column].notna(), None).tolist() == \
            expected[column].astype(object).where(expected[column].notna(), None).tolist(), column


def test_csv_and_parquet_hold_the_same(frames):
    for name in TABLES:
        text, typed = frames[name, "csv"], frames[name, "parquet"]
        assert list(text.columns) == list(typed.columns) and len(text) == len(typed)
        for column, kind in TABLES[name].items():
            for one, other in zip(text[column], typed[column], strict=True):
                if pd.isna(other) or other == "":
                    assert pd.isna(one), column
                elif kind in ("float64", "Int64"):
                    assert float(one) == float(other), column
                else:
                    assert str(one).removeprefix("'") == str(other), column


def test_parquet_has_numbers_as_numbers_and_lists_as_json(frames):
    rows, runs = frames["rows", "parquet"], frames["runs", "parquet"]
    assert rows.test_accuracy_mean.dtype == "float64" and runs.seed.dtype == "int64"
    kd = rows.query("suite == 'one' and method == 'kd'").iloc[0]
    assert json.loads(kd.seed_values) == [0, 1, 2] and json.loads(kd.hyperparameters) == {}
    assert runs[runs.status == "crashed"].reason.tolist() == ["=memory"]


def test_parquet_notes_no_version_of_pandas(made):
    for name in TABLES:
        assert pq.read_schema(made / "site" / "data" / f"{name}.parquet").metadata is None


def test_a_row_has_the_address_of_its_place_on_the_site(made, frames):
    links = frames["rows", "parquet"].query("role == 'student'").link
    known = pages(made / "site")
    for link in links:
        path, _, anchor = link.partition("#")
        assert anchor in known[(made / "site" / path).resolve()].ids
    assert links.is_unique and frames["rows", "parquet"].query("role == 'teacher'").link.isna().all()


def test_every_column_is_described(made):
    described = meaning()
    assert (COLUMNS.keys() | RUN_COLUMNS.keys()) == described.keys()
    card = (made / "site" / "data" / "README.md").read_text()
    for name in {*TABLES["rows"], *TABLES["runs"]}:
        assert f"| `{name}` |" in card
    assert all(len(told) > 3 and "\n" not in told for told in described.values())


def test_the_card_s_head_names_licence_task_and_configurations_whose_files_are_there(made):
    data = made / "site" / "data"
    front = yaml.safe_load((data / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "mit" and front["task_categories"] == ["image-classification"]
    assert front["size_categories"] == ["n<1K"]
    assert [one["config_name"] for one in front["configs"]] == ["rows", "runs"]
    assert all((data / one["data_files"]).is_file() for one in front["configs"])


def test_the_sums_are_those_of_the_files(made):
    data = made / "site" / "data"
    lines = [line.split("  ") for line in (data / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {path.name for path in data.iterdir()} - {"SHA256SUMS"}
    assert all(hashlib.sha256((data / name).read_bytes()).hexdigest() == sha256 for sha256, name in lines)
    home = (made / "site" / "index.html").read_text()
    assert all(sha256 in home for sha256, _ in lines)


def test_another_licence_stands_in_the_card_and_on_the_pages(made, kdbench, tmp_path):
    code, out, err = kdbench("publish", made / "two", "--out", tmp_path / "site", "--license", "cc-by-4.0")
    assert code == 0, err
    assert "cc-by-4.0" in out and "license: cc-by-4.0" in (tmp_path / "site" / "data" / "README.md").read_text()
    assert "Licence of the results: cc-by-4.0." in (tmp_path / "site" / "index.html").read_text()


def test_without_pyarrow_one_line_says_what_to_install(made, tmp_path):
    code = ("import sys; sys.modules['pyarrow'] = None\n"
            f"sys.argv = ['kdbench', 'publish', {str(made / 'two')!r}, '--out', {str(tmp_path / 'site')!r}]\n"
            "from kdbench.cli.main import main; main()")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and not (tmp_path / "site").exists()
    assert ended.stderr == 'kdbench: kdbench publish needs pyarrow: pip install "kdbench[publish]"\n'
