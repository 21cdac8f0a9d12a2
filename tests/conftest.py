import os
import sys

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of the tests' own, shared by them all: teachers of the smoke suite are trained once."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("KDBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def kdbench(monkeypatch, capsys, tmp_path):
    """Calls the command line in this process; gives its exit code, standard output and standard error."""
    from kdbench.cli import main as cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kdbench", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no GPU here: the exactness of runs on one is not tested"))])
def device(request):
    """The devices that runs must be exact on."""
    return request.param


@pytest.fixture(scope="module")
def browser():
    """Chromium. The test is skipped where it is not installed."""
    from playwright.sync_api import sync_playwright
    from support.programs import program

    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program("chromium"), args=sandbox)
        yield chromium
        chromium.close()
