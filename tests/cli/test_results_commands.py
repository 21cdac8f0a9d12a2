"""The commands that read a folder of results."""


import pytest
from support.matrices import job, smoke, teacher_job
from support.records import record, spec

from kdbench.results.store import Store
from kdbench.train.worker import run_job

PLUGIN = '''from kdbench.method import Method
from kdbench.paper import Paper


class Mine(Method):
    """My idea."""
    name, family = "mine", "logit"
    paper = Paper(title="A Paper of Mine", authors=("Ann Bee",), year=2026, venue="arXiv")

    def __init__(self, ctx, *, temperature: float = 8.0):
        super().__init__(ctx)
'''


@pytest.fixture
def folder(tmp_path):
    for method in ("kd", "mine"):
        Store(tmp_path / "runs").write(record(spec(method, temperature=8.0, dataset="mnist5k"), .5))
    return tmp_path / "runs"


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path / "mine.py"


def test_cite_prints_entries_and_a_sentence(kdbench, folder):
    code, out, _ = kdbench("cite", folder)
    assert code == 0 and "@inproceedings{hinton2015distilling," in out and "We compare kd~\\cite{hinton" in out
    assert "% Not known here, so without a reference: mine" in out


def test_cite_knows_the_paper_of_a_plugin(kdbench, folder, plugin):
    code, out, _ = kdbench("cite", folder, "--plugin", plugin)
    assert code == 0 and "A Paper of Mine" in out and "mine~\\cite{bee2026paper}" in out and "Not installed" not in out


def test_a_plugin_given_to_the_leaderboard_shows_only_what_differs_from_its_defaults(kdbench, folder, plugin):
    without = kdbench("leaderboard", folder, "--notes")[1]
    assert "Not at their defaults: " in without and "mine: temp" in without
    assert "mine: temp" not in kdbench("leaderboard", folder, "--notes", "--plugin", plugin)[1]


def test_a_report_with_a_plugin_tells_of_it_and_is_checked_with_it(kdbench, folder, plugin, monkeypatch):
    monkeypatch.setattr("kdbench.report.plots.plots", lambda leaderboard, details: [])
    assert kdbench("report", folder, "--plugin", plugin)[0] == 0
    assert "My idea." in (folder / "index.html").read_text()
    assert kdbench("report", folder, "--check", "--plugin", plugin)[0] == 0
    code, out, _ = kdbench("report", folder, "--check")
    assert code == 1 and "leaderboard.md: not what the records give" in out


@pytest.mark.parametrize("command", ["cite", "report", "leaderboard"])
def test_a_folder_without_records_is_one_line_and_exit_code_2(kdbench, tmp_path, command):
    code, out, err = kdbench(command, tmp_path / "absent")
    assert (code, out) == (2, "") and "no records here" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "absent").exists()


def test_card_prints_the_card_of_a_run_named_by_the_beginning_of_its_id(kdbench, folder):
    run = spec("kd", temperature=8.0, dataset="mnist5k").id
    code, out, _ = kdbench("card", folder, run[:10])
    assert code == 0 and out.startswith("---\n") and f"| {run} " in out


@pytest.mark.parametrize("arguments", [("card",), ("export", "--out", "student")])
def test_an_unknown_run_is_one_line_and_exit_code_2(kdbench, folder, arguments):
    code, out, err = kdbench(arguments[0], folder, "nothing", *arguments[1:])
    assert (code, out) == (2, "") and "no single run 'nothing' among 2" in err and len(err.splitlines()) == 1


def test_export_writes_a_folder_with_weights_and_card(kdbench, tmp_path, cache):
    run_job(teacher_job(smoke("ce"), cache))
    run = run_job(job(smoke("kd"), tmp_path / "runs", cache, "kd"))
    code, out, _ = kdbench("export", tmp_path / "runs", run.run_id[:8], "--out", tmp_path / "new" / "student")
    assert code == 0 and "logits differ by at most 0 on 256 test images" in out
    assert (tmp_path / "new" / "student" / "README.md").read_text().startswith("---\n")
    assert (tmp_path / "new" / "student" / "model.safetensors").exists()
