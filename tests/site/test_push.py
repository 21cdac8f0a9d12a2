"""The upload of a site's data, to a hub on this machine: the command in a process of its own, as a user would."""

import os
import subprocess
import sys

import pytest
from support.hub import local_hub
from support.sites import suite_folder


@pytest.fixture
def hub():
    with local_hub() as running:
        yield running


@pytest.fixture
def push(tmp_path, hub):
    """Publishes and pushes with a token; gives exit code, standard output and standard error."""
    suite_folder(tmp_path / "one", "one", methods=("ce", "kd"), seeds=2)

    def call(token, *options, endpoint=hub.address):
        ended = subprocess.run(
            [sys.executable, "-m", "kdbench.cli.main", "publish", "one", "--out", "site", *options], cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf"),
                 "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"})
        return ended.returncode, ended.stdout, ended.stderr

    return call


def test_the_data_becomes_a_dataset_repository_with_its_card(push, hub, tmp_path):
    code, out, err = push("hf_valid", "--push", "somebody/results")
    assert code == 0, err
    assert out.splitlines()[-1] == f"{hub.address}/datasets/somebody/results"
    (created,) = hub.created
    assert (created["organization"], created["name"], created["type"]) == ("somebody", "results", "dataset")
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "site" / "data").iterdir()}
    assert len(hub.stored) == 2 and set(hub.cards) == {(tmp_path / "site" / "data" / "README.md").read_text()}


def test_without_push_nothing_is_asked_of_the_hub(push, hub):
    code, _, err = push("hf_valid")
    assert code == 0, err
    assert hub.asked == []


def test_a_token_that_the_hub_refuses_is_told_in_a_line_and_the_site_stays(push, hub, tmp_path):
    code, _, err = push("hf_other", "--push", "somebody/results")
    assert code == 2 and err.count("\n") == 1 and "--push somebody/results" in err and "hf auth login" in err
    assert hub.files == {} and (tmp_path / "site" / "index.html").is_file()


def test_a_hub_that_cannot_be_reached_is_told_in_a_line(push):
    code, _, err = push("hf_valid", "--push", "somebody/results", endpoint="http://127.0.0.1:9")
    assert code == 2 and err.count("\n") == 1 and err.startswith("kdbench: --push somebody/results: ")


@pytest.mark.parametrize("name", ["results", "a/b/c", "/b", "a/", "a b/c", "https://huggingface.co/a"])
def test_what_is_no_repository_is_refused_before_anything_is_written(kdbench, tmp_path, name):
    suite_folder(tmp_path / "one", "one", methods=("ce",))
    code, _, err = kdbench("publish", tmp_path / "one", "--out", tmp_path / "site", "--push", name)
    assert code == 2 and "expected OWNER/NAME" in err and not (tmp_path / "site").exists()
