"""The names of all files that kdbench keeps: results, the cache, and what an unfinished run leaves for its next start.

Nothing here touches the disk; every other module asks these classes where a file lies.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from kdbench.errors import UserError

REPORT = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.json", "runs.csv", "index.html", "plots")


@dataclass(frozen=True)
class StudyFolder:
    """The files that tuning keeps beside the records of its trials.

    study.json      what the trials depend on: sampler, seeds, and the search space and version of each method
    journal.log     the trials in a format that optuna's own tools read, rewritten from the records when tuning starts
    choices.json    the chosen trial of each method in each cell, with all of its trials
    .lock           held by the one `kdbench tune` that works in the folder
    """

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "study.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal.log"

    @property
    def choices(self) -> Path:
        return self.root / "choices.json"


@dataclass(frozen=True)
class SlurmBatch:
    """The files of a batch of Slurm jobs, kept until the last of them has ended. The folder's name is also the name of
    the jobs in the queue.

    batch.json       the runs of each of the batch's jobs
    jobs/            submitit's files: what each job is to do, and what it printed
    began/<number>   one file for each job that began
    ended/<run id>   one file for each run that ended, with a hash of its record
    """

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def note(self) -> Path:
        return self.root / "batch.json"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def marks(self) -> Path:
        return self.root / "ended"

    def began(self, number: int) -> Path:
        return self.root / "began" / str(number)

    def ended(self, run_id: str) -> Path:
        return self.marks / run_id


@dataclass(frozen=True)
class SlurmFolder:
    """The unfinished batches of Slurm jobs of a results folder: each <name>/ is a `SlurmBatch`."""

    root: Path

    def batch(self, name: str) -> SlurmBatch:
        return SlurmBatch(self.root / name)


@dataclass(frozen=True)
class ResultsFolder:
    """The results of one suite or, in the cache, the trained teachers of all suites.

    records/<run id>.json             a `Record`: what one run did and what came out; failed runs have one too
    plan/<run id>.json                a `Planned`: a run that was asked for, which shows that a run without a record is
                                      missing and not merely unwanted
    predictions/<run id>.npz          float32 logits and int64 labels of the validation and test splits; training images
                                      per class; groups of the test images, if the dataset has groups
    students/<run id>.safetensors     the state dict of the trained network, under timm's names if it is a timm model
    profile/<run id or cell>.json     a `Profile`: the cost of training with a method, or of using a pair's networks
    compressed/<id>.json              a `Compressed`: the accuracy and cost of a network that was made from a student
    onnx/<id>.onnx                    that network
    robustness/<teacher id>.json      the robustness metrics of a teacher with published weights (in the cache only)
    tune/                             a `StudyFolder`, if the records are those of trials
    merged.json                       which folders' results `kdbench merge` brought into this one, and when
    release.json                      the versions of the results that `kdbench release` made
    suite.toml                        of the latest version: the text of the suite that made the results, with its pairs
    lock.txt                          of the latest version: the packages that the results were made with, in pip's
                                      format
    submissions.json                  which results others submitted, and how far they were checked
    plugins/<name>.py                 the methods of submissions, as they were submitted
    .lock                             held by the one command that writes into the folder; contains its process id and
                                      the name of its machine
    .lock-<part>                      held by the one command for a part of the runs; such commands share .lock
    .slurm/                           a `SlurmFolder`, while runs are jobs of a Slurm cluster
    leaderboard.*, index.html, plots/ the report, which `kdbench report` makes from all of these

    A run id is the first 16 hexadecimal digits of the SHA-256 of the canonical JSON of everything in a `RunSpec` that
    can change its result. Each JSON file holds one object with one field per line.
    """

    root: Path

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def plans(self) -> Path:
        return self.root / "plan"

    @property
    def profiles(self) -> Path:
        return self.root / "profile"

    @property
    def tuning(self) -> StudyFolder:
        return StudyFolder(self.root / "tune")

    @property
    def merged(self) -> Path:
        return self.root / "merged.json"

    @property
    def release(self) -> Path:
        return self.root / "release.json"

    @property
    def suite(self) -> Path:
        return self.root / "suite.toml"

    @property
    def packages(self) -> Path:
        return self.root / "lock.txt"

    @property
    def submitted(self) -> Path:
        return self.root / "submissions.json"

    def plugin(self, name: str) -> Path:
        return self.root / "plugins" / name

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    def part_lock(self, part: str) -> Path:
        return self.root / f".lock-{part}"

    @property
    def slurm(self) -> SlurmFolder:
        return SlurmFolder(self.root / ".slurm")

    def record(self, run_id: str) -> Path:
        return self.records / f"{run_id}.json"

    def plan(self, run_id: str) -> Path:
        return self.plans / f"{run_id}.json"

    def profile(self, profile_id: str) -> Path:
        return self.profiles / f"{profile_id}.json"

    @property
    def compressed(self) -> Path:
        return self.root / "compressed"

    def compressed_record(self, name: str) -> Path:
        return self.compressed / f"{name}.json"

    def compressed_network(self, name: str) -> Path:
        return self.root / "onnx" / f"{name}.onnx"

    def predictions(self, run_id: str) -> Path:
        return self.root / "predictions" / f"{run_id}.npz"

    def student(self, run_id: str) -> Path:
        return self.root / "students" / f"{run_id}.safetensors"

    def robustness(self, teacher_id: str) -> Path:
        return self.root / "robustness" / f"{teacher_id}.json"


@dataclass(frozen=True)
class RunFolder:
    """The files that an unfinished run keeps until it is finished.

    checkpoint        the state after an epoch, not always the latest: 32 bytes of SHA-256, then a file of `torch.save`
    progress.json     how far the run is, and which process on which machine works on it, for whoever watches
    lock              held by the process that works on the run
    """

    root: Path

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def progress(self) -> Path:
        return self.root / "progress.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"


@dataclass(frozen=True)
class DataFolder:
    """The files of datasets, and what was made from their images.

    FashionMNIST/raw/, cifar-10-batches-py/, ...   published files, in torchvision's layout
    decoded/<name>        an array made from the files of an image folder; its name is a hash of what it was made from
    checked/<state>       an empty file; it says that all images of the folder with that state could be read
    corrupted/<name>      corrupted test images; the name is a hash of the images and of what corrupted them
    """

    root: Path

    def decoded(self, name: str) -> Path:
        return self.root / "decoded" / name

    def checked(self, state: str) -> Path:
        return self.root / "checked" / state

    def corrupted(self, name: str) -> Path:
        return self.root / "corrupted" / name


@dataclass(frozen=True)
class PassFolder:
    """A teacher's answers to the batches of a stream.

    pass.json          what the pass was made from, and the key by which plans name it
    <tensor>/<step>    the logits, the embedding or one stage of the answers for consecutive steps of a run, as an
                       array; <step> is the first of these steps
    """

    root: Path

    @property
    def note(self) -> Path:
        return self.root / "pass.json"

    def tensor(self, name: str) -> Path:
        return self.root / name


@dataclass(frozen=True)
class MirrorFolder:
    """The local copy of a results folder on an object store.

    results/      a `ResultsFolder`, as commands read and write it
    index.json    for each file of the results, its version at the store
    index.lock    held while files are downloaded, and while the index is read and written
    writer.lock   held by the one command on this machine that writes
    """

    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def index(self) -> Path:
        return self.root / "index.json"

    @property
    def index_lock(self) -> Path:
        return self.root / "index.lock"

    @property
    def writer_lock(self) -> Path:
        return self.root / "writer.lock"


@dataclass(frozen=True)
class CacheFolder:
    """The cache: what runs share, and what can be made again if it is lost.

    data/                   a `DataFolder`
    teachers/               a `ResultsFolder` of trained teachers
    checkpoints/<run id>/   a `RunFolder`
    passes/<pass id>/       a `PassFolder`
    remotes/<hash>/         a `MirrorFolder`; the hash is that of its URL and endpoint
    """

    root: Path

    @classmethod
    def of_user(cls) -> "CacheFolder":
        """The folder that the environment variable KDBENCH_CACHE names or, without that, kdbench's folder in the user's
        cache. UserError if the user's home folder cannot be found."""
        given = os.environ.get("KDBENCH_CACHE")
        try:
            return cls(Path(given).expanduser() if given else user_cache_path("kdbench"))
        except (RuntimeError, KeyError) as error:  # an unknown user without HOME
            raise UserError("no home folder can be found for the cache: set KDBENCH_CACHE to a folder") from error

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def teachers(self) -> Path:
        return self.root / "teachers"

    @property
    def passes(self) -> Path:
        return self.root / "passes"

    def teacher_pass(self, pass_id: str) -> PassFolder:
        return PassFolder(self.passes / pass_id)

    @property
    def remotes(self) -> Path:
        return self.root / "remotes"

    def remote(self, name: str) -> MirrorFolder:
        return MirrorFolder(self.remotes / name)

    def unfinished(self, run_id: str) -> RunFolder:
        return RunFolder(self.root / "checkpoints" / run_id)
