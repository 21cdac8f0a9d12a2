"""The command line, in this process where nothing trains, else in its own."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.matrices import plugin
from support.profiles import profile, training
from support.records import record, spec

from kdbench.results.store import Store

SUITE = """
methods = ["ce"]
pairs = ["resnet8x2-resnet8x05"]
datasets = ["synthetic"]
[recipe]
epochs = 1
batch_size = 32
image_size = 16
lr = 0.1
"""


def toml(folder, text=SUITE):
    (folder / "mine.toml").write_text(text)
    return "mine.toml"


def empty_folder(folder):
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "images" / "test").mkdir()
    return "imagefolder:images"


def broken_images(folder):
    name = broken_image(folder)
    for i in range(4, 10):
        (folder / "images" / "train" / "a" / f"{i}.png").write_bytes(b"no image")
    return name


def broken_image(folder):
    from PIL import Image
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / "images" / split / label).mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (8, 8), (i, i, i)).save(folder / "images" / split / label / f"{i}.png")
    (folder / "images" / "train" / "b" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return "imagefolder:images"


# What is typed (made in an empty folder), and what the one line must say.
MISTAKES = {
    "method": (lambda f: ["run", "smoke", "--methods", "kdd"], "unknown method 'kdd'; did you mean 'kd'?"),
    "own method": (lambda f: ["run", "smoke", "--methods", "zorro"], "; a method of yours needs --plugin FILE"),
    "methods of check": (lambda f: ["check", "ce,kdd"], "unknown method 'kdd'; did you mean 'kd'?"),
    "setting of another": (lambda f: ["run", "smoke", "--methods", "ce", "--set", "kd.temperature=2"],
                           "setting 'kd.temperature': kd is not among the methods of this command"),
    "pair": (lambda f: ["run", "smoke", "--pairs", "resnet56-resnet2"], "did you mean 'resnet56-resnet20'?"),
    "dataset": (lambda f: ["run", "smoke", "--datasets", "mnist5"], "did you mean 'mnist5k'?"),
    "suite": (lambda f: ["run", "smok"], "unknown suite 'smok'; did you mean 'smoke'?"),
    "suite file": (lambda f: ["run", "none.toml"], "none.toml: no such file"),
    "toml": (lambda f: ["run", toml(f, SUITE.replace("epochs = 1", "epochs = "))], "mine.toml:6: malformed TOML"),
    "toml key": (lambda f: ["run", toml(f, SUITE.replace("epochs", "epoch"))], "recipe.epoch: unknown key"),
    "hyperparameter": (lambda f: ["run", "smoke", "--set", "kd.temp=4"], "did you mean 'temperature'?"),
    "its type": (lambda f: ["run", "smoke", "--set", "kd.temperature=hot"], "kd.temperature: expected float"),
    "its range": (lambda f: ["run", "smoke", "--set", "kd.alpha=2"], "kd.alpha: 2.0 is out of range, allowed: 0.0 to"),
    "seeds": (lambda f: ["run", "smoke", "--seeds", "x"], "--seeds x: expected how many"),
    "no seeds": (lambda f: ["run", "smoke", "--seeds", "0"], "--seeds 0: expected how many"),
    "empty seeds": (lambda f: ["run", "smoke", "--seeds", ""], "--seeds : expected how many"),
    "two of a name": (lambda f: ["run", "smoke", "--plugin", plugin(f, name="kd")],
                      "kd.py; give yours another name"),
    "no plugin": (lambda f: ["run", "smoke", "--plugin", "none.py"], "none.py: no such file"),
    "plugin that fails": (
        lambda f: ["run", "smoke", "--methods", "mine", "--plugin", plugin(f, "pass\nimport nowhere")],
        "the plugin fails to import"),
    "empty image folder": (lambda f: ["run", "smoke", "--datasets", empty_folder(f)], "images"),
    "no image folder": (lambda f: ["run", "smoke", "--datasets", "imagefolder:nowhere"], "nowhere"),
    "broken image": (lambda f: ["run", "smoke", "--datasets", broken_image(f)], "3.png"),
    "broken images": (lambda f: ["run", "smoke", "--datasets", broken_images(f)],
                      "image folder images: 7 images cannot be read: images/train/a/4.png: cannot be read as an image"),
    "images beside a suite": (
        lambda f: ["run", toml(f, SUITE.replace("synthetic", "imagefolder:nowhere"))],
        "mine.toml: datasets: image folder nowhere: no such folder"),
    "method of a suite": (
        lambda f: ["run", toml(f, SUITE + "[hyperparameters.kdd]\nalpha = 1\n")],
        "mine.toml: hyperparameters.kdd: unknown method 'kdd'; did you mean 'kd'?"),
    "table of a suite": (
        lambda f: ["run", toml(f, SUITE + "[pair.my]\nteachr = 3\n")], "mine.toml: pair.my.teachr: unknown key; did"),
    "dataset for a method": (lambda f: ["run", "smoke", "--methods", "mnist5k"],
                             "unknown method 'mnist5k'; did you mean 'nst'? (allowed:"),
    "no such download": (lambda f: ["run", "smoke", "--datasets", "cifar10", "--set", "recipe.epochs=1"], "cifar10"),
    "architecture": (lambda f: ["run", toml(f, SUITE.replace("resnet8x2-resnet8x05", "my") + (
        '[pair.my]\nteacher = {model = "resnet18"}\nstudent = {model = "resnet19"}\n'))],
        "pair my: unknown timm model 'resnet19'; did you mean 'resnet18'? (the nearest: "),
    "architecture to tune": (lambda f: ["tune", toml(f, SUITE.replace("resnet8x2-resnet8x05", "my") + (
        '[pair.my]\nteacher = {model = "resnet18"}\nstudent = {model = "resnet19"}\n'))],
        "pair my: unknown timm model 'resnet19'; did you mean 'resnet18'?"),
    "folder is a file": (lambda f: ["run", "smoke", "--out", (f / "file").write_text("") or "file"],
                         "the output folder is not writable"),
    "no earlier results": (lambda f: ["run", "smoke", "--estimates-from", "nowhere"], "nowhere: no records here"),
    "option": (lambda f: ["run", "smoke", "--metods", "kd"], "No such option: --metods"),
    "number": (lambda f: ["run", "smoke", "--workers", "0"], "--workers"),
    "executor": (lambda f: ["run", "smoke", "--executor", "slrm"], "unknown executor 'slrm'; did you mean 'slurm'?"),
    "key of an executor": (lambda f: ["run", "smoke", "--slurm", "mem=4G"], "--slurm mem: goes with --executor slurm"),
    "no key": (lambda f: ["run", "smoke", "--executor", "ray", "--ray", "num_cpus"], "--ray num_cpus: expected KEY=V"),
    "tracker": (lambda f: ["run", "smoke", "--track", "nobody"], "unknown tracker 'nobody'"),
    "method to profile": (lambda f: ["profile", "smoke", "--methods", "kdd"], "did you mean 'kd'?"),
    "steps": (lambda f: ["profile", "smoke", "--steps", "1"], "--steps"),
    "watts": (lambda f: ["profile", "smoke", "--watts", "nan"], "--watts nan: expected a finite number above 0"),
    "no folder for profiles": (lambda f: ["profile", "smoke", "--out", (f / "file").write_text("") or "file"],
                               "the output folder is not writable"),
    "show": (lambda f: ["show", "rdk"], "did you mean 'rkd'?"),
    "check": (lambda f: ["check", "rdk"], "did you mean 'rkd'?"),
    "family": (lambda f: ["new-method", "mine", "--family", "logits"], "did you mean 'logit'?"),
    "taken name": (lambda f: ["new-method", "kd", "--family", "logit"], "method name 'kd': taken by "),
    "case": (lambda f: ["show", "KD"], "suite 'KD'; did you mean 'kd'?"),
    "name": (lambda f: ["new-method", "My-Method", "--family", "logit"], "lower-case Python identifier"),
    "leaderboard of nothing": (lambda f: ["leaderboard", "nowhere"], "nowhere"),
    "list": (lambda f: ["list", "method"], "methods"),
    "list of pair": (lambda f: ["list", "methods", "--pair", "resnet56"], "did you mean 'resnet56-resnet20'?"),
    "suite of list": (lambda f: ["list", "methods", "--suite", toml(f)], "--suite mine.toml: goes with --pair"),
    "pair of list": (lambda f: ["list", "suites", "--pair", "resnet56-resnet20"], "goes with `list methods`"),
    "format": (lambda f: ["leaderboard", ".", "--format", "xml"], "xml"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_written(kdbench, tmp_path, cache, mistake):
    typed, message = MISTAKES[mistake]
    arguments = typed(tmp_path)
    before = tree(tmp_path)
    code, out, err = kdbench(*arguments)
    assert (code, out) == (2, "")
    *progress, line = err.splitlines()
    assert all(told.startswith("downloading ") for told in progress)
    assert line.startswith("kdbench: ") and message in line
    assert tree(tmp_path).keys() == before.keys()
    if arguments[0] == "run" and mistake != "no such download":  # which a dry run does not try
        before = tree(tmp_path, cache)
        code, out, line = kdbench(*arguments, "--dry-run")
        assert (code, out, len(line.splitlines())) == (2, "", 1)
        assert line.startswith("kdbench: ") and message in line
        assert tree(tmp_path, cache) == before


def tree(*folders):
    """Every file and folder, with its time of change."""
    return {path: path.lstat().st_mtime_ns for folder in folders for path in folder.rglob("*")
            if "__pycache__" not in str(path)}


def test_a_dry_run_prints_the_plan_in_words_and_json_and_writes_nothing(kdbench, tmp_path, monkeypatch):
    """With a cache that is not there, and a method that fails in its first step."""
    empty = tmp_path / "cache"
    monkeypatch.setenv("KDBENCH_CACHE", str(empty))
    asked = ["run", "smoke", "--methods", "ce,kd,mine", "--seeds", "2", "--plugin",
             plugin(tmp_path, "raise ValueError('oh')"), "--workers", "2", "--dry-run"]
    before = tree(tmp_path)
    code, out, err = kdbench(*asked)
    assert (code, err) == (0, "") and tree(tmp_path).keys() == before.keys()
    table, totals = (part.splitlines() for part in out.split("\n\n"))
    assert [line.split()[0] for line in table] == ["method", "teachers", "ce", "kd", "mine"]
    assert [line.split()[3] for line in table[1:]] == ["1", "2", "2", "2"]
    assert [" timed " in line for line in table[1:]] == [True, True, True, False]
    assert totals[0] == "6 runs to do and 1 teacher to train first, 2 at a time"
    assert [line.split(":")[0] for line in totals[1:4]] == ["time", "memory", "disk"]
    assert not any("not known" in line for line in totals)
    assert any("mine " in line and "could not be timed: crashed: ValueError: oh" in line for line in totals[4:])

    code, out, _ = kdbench(*asked, "--json")
    found = json.loads(out)
    assert code == 0 and (found["runs"], found["teachers"], found["unknown"]) == (6, 1, 0)
    assert found["seconds"] > 0 and found["disk"] > 0 and found["memory"] > 0
    assert tree(tmp_path).keys() == before.keys()


def test_json_without_a_dry_run_is_refused(kdbench):
    code, _, err = kdbench("run", "smoke", "--json")
    assert code == 2 and "--json goes with --dry-run" in err


def test_an_output_folder_in_use_is_refused_with_the_process_that_holds_it(kdbench, tmp_path):
    with Store(tmp_path / "out").lock():
        code, _, err = kdbench("run", "smoke", "--methods", "ce", "--seeds", "1", "--out", "out")
    assert code == 2 and "in use by another `kdbench run`" in err and str(os.getpid()) in err


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(kdbench, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.execution.matrix.Matrix.pending", interrupt)
    code, _, err = kdbench("run", "smoke")
    assert code == 130 and "interrupted; the same command continues" in err and "Traceback" not in err


@pytest.mark.parametrize("arguments", [
    ["--help"], ["run", "--help"], ["--version"], ["list", "methods"], ["list", "methods", "--json"], ["list", "pairs"],
    ["list", "datasets"], ["list", "suites"], ["list", "metrics"], ["show", "kd"], ["doctor"],
    ["leaderboard", "."], ["status", "."], ["profile", "--help"],
])
def test_what_only_tells_imports_no_torch(arguments, tmp_path):
    code = ("import sys, kdbench.cli.main\n"
            f"sys.argv = ['kdbench', *{arguments!r}]\n"
            "try: kdbench.cli.main.main()\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules, 'torch was imported'")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)


@pytest.mark.parametrize("status, expected", [("ok", 0), ("inapplicable", 0), ("crashed", 1)])
def test_profile_prints_the_costs_and_ends_with_1_if_something_failed(kdbench, tmp_path, monkeypatch, status, expected):
    asked = []

    def run_profiles(jobs, reasons, pool, say):
        asked.extend(jobs)
        good = profile(training=training(.0123, 1.0, .1))
        return [good, profile(run=spec("kd"), status=status, reason="so it is", training=training(.02, 2.0, .2))]

    monkeypatch.setattr("kdbench.profile.session.run_profiles", run_profiles)
    code, out, _ = kdbench("profile", "smoke", "--methods", "kd", "--steps", "7", "--repeats", "3", "--watts", "4.5",
                           "--out", "here")
    assert code == expected
    assert [(job.subject, job.spec.method, job.spec.seed) for job in asked] == [("pair", "kd", 0), ("method", "kd", 0)]
    assert {(job.settings.steps, job.settings.repeats, job.settings.watts_per_core) for job in asked} == {(7, 3, 4.5)}
    assert "Cost of training (energy: estimate): big-small on digits" in out and "12.3" in out
    assert "2 profiles in" in out and "10 s of them" in out and "here/profile" in out
    assert ("so it is" in out) == (status != "ok")


@pytest.mark.parametrize("things", ["methods", "pairs", "datasets", "suites", "metrics"])
def test_lists_are_the_same_in_columns_and_json(kdbench, things):
    _, columns, _ = kdbench("list", things)
    _, text, _ = kdbench("list", things, "--json")
    rows = json.loads(text)
    lines = columns.splitlines()[1:]
    assert len(rows) == len(lines) > 0
    assert [row["name"] for row in rows] == [line.split()[0] for line in lines]


def test_a_list_of_methods_says_which_can_train_a_pair(kdbench, tmp_path):
    choosy = plugin(tmp_path)
    choosy.write_text(choosy.read_text() + "    @classmethod\n    def inapplicable(cls, student, teacher):\n"
                                           "        return f'{len(teacher.stages)} stages are too few'\n")
    _, text, _ = kdbench("list", "methods", "--pair", "vit64-vit32", "--plugin", choosy, "--json")
    applies = {row["name"]: row["applies"] for row in json.loads(text)}
    assert applies["ce"] == applies["kd"] == "yes"
    assert applies["mine"] == "4 stages are too few"


def test_show_tells_idea_paper_and_hyperparameters(kdbench):
    _, text, _ = kdbench("show", "kd")
    for expected in ("softened class probabilities", "Hinton", "1503.02531", "temperature", "float", "1.0 to 20.0"):
        assert expected in text
    facts = json.loads(kdbench("show", "kd", "--json")[1])
    assert facts["hyperparameters"][0] == {"name": "temperature", "type": "float", "default": 4.0, "range": [1.0, 20.0]}


def test_a_new_method_says_how_to_try_it_and_never_overwrites(kdbench, tmp_path):
    code, out, _ = kdbench("new-method", "my_idea", "--family", "relation")
    assert code == 0 and "kdbench check my_idea --plugin my_idea.py" in out
    written = (tmp_path / "my_idea.py").read_text()
    code, _, err = kdbench("new-method", "my_idea", "--family", "logit")
    assert code == 2 and "exists already" in err
    assert (tmp_path / "my_idea.py").read_text() == written


def test_doctor_tells_versions_and_folders(kdbench, cache):
    _, text, _ = kdbench("doctor")
    for expected in ("python", "torch", "timm", "cores", str(cache), "9 of 9 families"):
        assert expected in text
    assert "work in the cache, work in the results" in text


def test_doctor_tells_of_disks_without_file_locks_and_writes_nothing(kdbench, tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "absent" / "cache"))
    code, text, _ = kdbench("doctor")
    none = "none (No locks available) in"
    assert code == 0 and f"{none} the cache, {none} the results" in text and list(tmp_path.iterdir()) == []


def test_a_run_prints_its_leaderboard_and_the_same_command_trains_nothing(tmp_path):
    command = [Path(sys.executable).parent / "kdbench", "run", "smoke", "--methods", "ce,kd,mine", "--seeds", "1",
               "--plugin", plugin(tmp_path), "--out", "out"]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert first.returncode == 0, first.stderr
    assert "0 runs were finished before, 3 now, 0 failed" in first.stdout
    assert first.stdout.startswith("synthetic: 900 training images, 90 of each of 10 classes, 100 for validation, 200 ")
    assert first.stdout.splitlines()[0].endswith(" 200 for the test, all for teachers")
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 0 and "3 runs were finished before, 0 now" in again.stdout
    table = subprocess.run([command[0], "leaderboard", "out", "--format", "json"], capture_output=True, text=True,
                           cwd=tmp_path, check=True)
    rows = [row for row in json.loads(table.stdout)["rows"] if row["method"] in ("ce", "kd", "mine")]
    assert {row["method"] for row in rows} == {"ce", "kd", "mine"}
    for row in rows:
        assert {"method", "family", "pair", "dataset", "seeds", "test_accuracy_mean"} <= set(row)
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) == 4


def test_a_run_into_the_folder_of_another_suite_is_warned_of(kdbench, tmp_path):
    Store(tmp_path / "out").write(record(spec()))
    options = ("run", "smoke", "--methods", "ce", "--seeds", "1", "--set", "recipe.epochs=1", "--out", "out")
    assert "note: out holds runs of the suite tiny; those of smoke come beside them" in kdbench(*options)[1]
    assert "holds runs of" not in kdbench(*options[:-1], "own")[1] + kdbench(*options[:-1], "own")[1]


def test_a_matrix_with_a_failed_run_shows_it_and_exits_with_1(tmp_path):
    command = [Path(sys.executable).parent / "kdbench", "run", "smoke", "--methods", "ce,mine", "--seeds", "1",
               "--plugin", plugin(tmp_path, "raise ValueError('oh no')"), "--out", "out"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 1
    assert "FAILED  mine" in ended.stdout and "1 failed" in ended.stdout and "oh no" in ended.stdout.split("0/1", 1)[1]


def test_methods_are_listed_for_a_pair_that_a_suite_file_defines(kdbench, tmp_path):
    file = toml(tmp_path, SUITE.replace("resnet8x2-resnet8x05", "mine") + """
[pair.mine]
teacher = { model = "mlp", kwargs = { hidden_sizes = [32, 16] } }
student = { model = "mlp", kwargs = { hidden_sizes = [16] } }
""")
    code, out, _ = kdbench("list", "methods", "--pair", "mine", "--suite", file, "--json")
    told = {row["name"]: row["applies"] for row in json.loads(out)}
    assert code == 0 and told["kd"] == "yes" and "position" in told["at"]
    assert "unknown pair 'mine'" in kdbench("list", "methods", "--pair", "mine")[2]


def test_check_tells_a_failure_once_with_the_line_of_the_plugin(kdbench, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("from kdbench.method import Method\n\n\nclass Broken(Method):\n"
                    "    name, family = 'broken', 'logit'\n\n"
                    "    def losses(self, batch, student, teacher):\n        raise ValueError('what is this')\n")
    code, out, _ = kdbench("check", "broken", "--plugin", file)
    assert code == 1 and out.count("ValueError: what is this (broken.py, line 8)") == 1 and out.count("as above") > 5


TWO_MODES = """from kdbench.method import Method


class Modes(Method):
    name, family = 'modes', 'baseline'
    learns_from = None
    ranges = {'mode': ('plain', 'odd')}

    def __init__(self, ctx, *, mode: str = 'plain', on: bool = True):
        super().__init__(ctx)
        self.mode, self.on = mode, on

    def losses(self, batch, student, teacher):
        if self.mode == 'odd':
            raise ValueError('odd mode')
        return {'ce': student.logits.square().mean()}
"""


def test_check_names_the_choice_that_fails(kdbench, tmp_path):
    (tmp_path / "modes.py").write_text(TWO_MODES)
    code, out, _ = kdbench("check", "modes", "--plugin", "modes.py")
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert code == 1 and "5 failed" in out and len(failed) == 5 and out.count("on=false: trains") == 5
    assert all(", mode=odd: trains with finite terms" in line for line in failed) and "odd mode" in failed[0]


def test_check_takes_hyperparameters_and_tries_no_choice_beside_one_that_is_set(kdbench, tmp_path):
    (tmp_path / "modes.py").write_text(TWO_MODES)
    code, out, _ = kdbench("check", "modes", "--plugin", "modes.py", "--set", "modes.mode=odd")
    assert code == 1 and "mode=" not in out and "odd mode" in out
    assert out.count("on=false: trains") == 5, "the choices of the others are tried"
    code, out, _ = kdbench("check", "modes", "--plugin", "modes.py", "--set", "modes.mode=plain")
    assert code == 0 and "mode=" not in out


@pytest.mark.parametrize(("setting", "message"), [
    ("kd.alpha=x", "kd.alpha: expected float, got 'x'"), ("kd.alpa=0.5", "did you mean 'alpha'?"),
    ("kdd.alpha=0.5", "unknown method 'kdd'; did you mean 'kd'?"),
    ("alpha=0.5", "--set alpha=0.5: expected METHOD.HYPERPARAMETER=VALUE"),
    ("dkd.alpha=0.5", "--set dkd.alpha: dkd is not checked here, allowed: kd"),
    ("recipe.epochs=1", "--set recipe.epochs: the contract tests have a recipe of their own"),
])
def test_a_wrong_setting_of_check_is_one_line_before_anything_is_tested(kdbench, setting, message):
    code, out, err = kdbench("check", "kd", "--set", setting)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err


def test_weights_of_other_code_are_written_under_timms_names_and_tried_on_images(kdbench, tmp_path):
    import timm
    import torch
    from PIL import Image

    state = timm.create_model("test_resnet", num_classes=4).state_dict()
    torch.save({f"net.{name}": tensor for name, tensor in state.items()}, "theirs.pth")
    Image.new("RGB", (50, 40), (9, 99, 199)).save("photo.png")
    code, out, err = kdbench("weights", "theirs.pth", "test_resnet", "--out", "ours.safetensors", "--look", "photo.png")
    assert code == 0, err
    first, second = out.splitlines()
    assert first == f"ours.safetensors: {len(state)} tensors of test_resnet"
    assert second.startswith("photo.png: ") and second.count("%") == 4
    code, _, err = kdbench("weights", "theirs.pth", "lcnet_035", "--out", "other.safetensors")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("kdbench: theirs.pth: not weights of lcnet_035: it has ")
    assert not Path("other.safetensors").exists()
