"""What the tests of profiles share: jobs of the smoke suite, and profiles that nobody measured."""

from pathlib import Path

from support.matrices import smoke
from support.records import spec

from kdbench.folders import CacheFolder
from kdbench.profile.job import ProfileJob, Settings
from kdbench.profile.record import Deployment, Deployments, Profile, Quartiles, Training, profile_id
from kdbench.profile.session import profile_jobs


def job(method: str, out: Path, cache: Path, *, subject="method", plugins=(), settings=None, **more):
    plan = smoke(method, plugins=plugins, settings=settings or {"recipe.epochs": 2})
    (found,) = [job for job in profile_jobs(plan, out, CacheFolder(cache), Settings(**more)) if job.subject == subject]
    assert isinstance(found, ProfileJob)
    return found


def quartiles(median: float) -> Quartiles:
    return Quartiles(low=.9 * median, median=median, high=1.1 * median, count=5)


def training(step: float, ratio: float, joules: float | None = None) -> Training:
    return Training(
        reference="ce", pass_steps=40, run_steps=100, step_seconds=quartiles(step), step_time_ratio=quartiles(ratio),
        reference_step_seconds=quartiles(step / ratio), peak_memory_bytes=300 * 2**20,
        step_joules=None if joules is None else quartiles(joules),
    )


def deployment(latency: float, joules: float | None = None) -> Deployment:
    return Deployment(
        parameters=1234, flops=5_600_000, file_bytes=7168, latency_seconds=quartiles(latency),
        latency_p95_seconds=2 * latency, throughput=quartiles(64 / latency),
        joules_per_1000_images=None if joules is None else quartiles(joules),
    )


def comparison(student=.002, teacher=.006, joules=(1.0, 4.0)) -> Deployments:
    return Deployments(
        student=deployment(student, joules[0]), teacher=deployment(teacher, joules[1]),
        speedup=quartiles(teacher / student), energy_saving=quartiles(1 - joules[0] / joules[1]),
    )


def profile(subject="method", run=None, **changes) -> Profile:
    run = run or spec()
    fields = dict(
        run_id=profile_id(subject, run), subject=subject, suite="tiny", spec=run, status="ok", seconds=5.0,
        energy_source="estimate", watts_per_core=10.0, load_average=.5, method_digest="a" * 64,
        environment={"cpu": "a processor", "threads": 1}, started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:05Z",
    )
    return Profile(**{**fields, **changes})
