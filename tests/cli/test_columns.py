"""Rows as columns on a terminal."""

import json
from types import SimpleNamespace

import pytest

from kdbench.cli.text import columns
from kdbench.cli.text.columns import print_columns

ROWS = [{"name": "a", "idea": "x" * 50}, {"name": "longer", "idea": "y"}]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(columns, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "30")


def test_what_a_terminal_has_no_room_for_is_cut_and_said(capsys, terminal):
    print_columns(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "a       " + "x" * 21 + "…" and lines[2] == "longer  y"
    assert lines[3].startswith("…: cut; --json")


def test_a_pipe_gets_everything(capsys):
    print_columns(ROWS)
    assert json.dumps(ROWS[0]["idea"])[1:-1] in capsys.readouterr().out
