"""The tables in LaTeX and the references in BibTeX, compiled."""

import re
import subprocess
from pathlib import Path

import pytest
from support.programs import program
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.plugins.registry import Registry
from kdbench.report.cite import cite
from kdbench.report.latex import to_latex
from kdbench.results.store import Store

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).parent.parent.parent / "results"


def compile_document(folder, body):
    """The log of pdflatex; fails if it ends with an error."""
    (folder / "document.tex").write_text("\n".join([
        r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\usepackage[T1]{fontenc}",
        r"\begin{document}", body, r"\end{document}"]))
    run(folder, program("pdflatex"), "-interaction=nonstopmode", "-halt-on-error", "document.tex")
    assert (folder / "document.pdf").stat().st_size > 1000
    return (folder / "document.log").read_text(errors="replace")


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_tables_of_any_size_and_any_text_compile_and_fit_the_page(tmp_path):
    store = Store(tmp_path)
    for place in range(90):
        method = f"method_{place}_{'x' * place}" if place else "ce"
        store.write(record(spec(method), .9 - place / 100, metrics={"agreement": .5}))
    store.write(record(spec(r"50% & #1 {a} \b ~^ $x$ Łódź 数 <b>", 0, dataset="my_data"), .5))
    store.write(record(spec("kd", temperature=8.0, dataset="my_data"), status="crashed", reason="100% of memory"))
    (tmp_path / "leaderboard.tex").write_text(to_latex(build(tmp_path, REGISTRY)))
    log = compile_document(tmp_path, r"\input{leaderboard}")
    assert "Overfull" not in log and "too large" not in log
    assert len(re.findall(r"^LaTeX Font Warning|Missing character", log, re.MULTILINE)) == 0


@pytest.mark.parametrize("folder", ["cpu", "fairness", "quick"])
def test_the_tables_of_committed_results_compile_and_fit_the_page(tmp_path, folder):
    """Those of cpu have notes of 500 words."""
    (tmp_path / "leaderboard.tex").write_bytes((RESULTS / folder / "leaderboard.tex").read_bytes())
    log = compile_document(tmp_path, r"\input{leaderboard}")
    assert "Overfull" not in log and "too large" not in log


def test_bibtex_reads_every_reference_and_the_sentence_cites_only_known_ones(tmp_path):
    registry = Registry()
    for method in registry:
        Store(tmp_path).write(record(spec(method, dataset="cifar10+longtail(10)"), .5))
    *entries, sentence = cite(build(tmp_path, registry)).split("\n\n")
    (tmp_path / "references.bib").write_text("\n\n".join(entries))
    body = rf"{sentence} \bibliographystyle{{plain}}\bibliography{{references}}"
    compile_document(tmp_path, body)
    run(tmp_path, program("bibtex"), "document")
    assert (tmp_path / "document.bbl").read_text().count(r"\bibitem") == len(entries)
    compile_document(tmp_path, body)
    assert "undefined" not in compile_document(tmp_path, body)
