"""A session of measurements: one after the other, each in a process of its own."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from kdbench.execution.executor import Executor
from kdbench.folders import CacheFolder
from kdbench.profile.job import ProfileJob, Settings
from kdbench.profile.record import BUSY, Profile, read_profile, write_profile
from kdbench.results.record import Problem, Status
from kdbench.results.store import Store
from kdbench.suites.plan import Plan

Say = Callable[[str], None]


def profile_jobs(plan: Plan, out: Path, cache: CacheFolder, settings: Settings) -> list[ProfileJob]:
    """The measurements for a plan of one seed: for each cell that of its pair, then those of its methods."""
    cells: dict[str, list[ProfileJob]] = {}
    for spec in plan.students:
        parts = (spec, plan.methods[spec.method], plan.methods[plan.reference], plan.suite, out, cache, settings)
        cells.setdefault(spec.cell, [ProfileJob("pair", *parts)]).append(ProfileJob("method", *parts))
    return [job for jobs in cells.values() for job in jobs]


class Measuring:
    """The work of an executor that measures: tasks are profile jobs, results are profiles."""

    function = "kdbench.profile.worker:run_profile"

    def result(self, job: ProfileJob) -> Profile | Problem | None:
        return read_profile(Store(job.out), job.id)

    def fail(self, job: ProfileJob, status: Status, reason: str) -> Profile:
        profile = Profile.of(job, status, reason, subject=job.subject)
        write_profile(Store(job.out), profile)
        return profile


def run_profiles(jobs: list[ProfileJob], reasons: Mapping[str, str], pool: Executor, say: Say) -> list[Profile]:
    """Run the measurements and return their profiles. A job whose id is in `reasons` is not run, but recorded as
    inapplicable for that reason. Raises UserError if the folder is in use."""
    assert pool.workers == 1, "what runs beside a measurement disturbs it"
    if not jobs:
        return []
    profiles, work = [], Measuring()
    with Store(jobs[0].out).lock():
        if pool.here and (load := os.getloadavg()[0]) > BUSY:
            say(f"note: the load average is {load:.1f}: times are noisy while something else runs")
        for job in (job for job in jobs if job.id in reasons):
            profiles.append(work.fail(job, "inapplicable", reasons[job.id]))
            say(f"n/a  {job}: {reasons[job.id]}")
        jobs = [job for job in jobs if job.id not in reasons]
        for number, (job, profile) in enumerate(pool.run(jobs, work, lambda running, waiting: None), start=1):
            say(f"[{number}/{len(jobs)}] {_line(job, profile)}")
            profiles.append(profile)
    return profiles


def _line(job: ProfileJob, profile: Profile) -> str:
    if profile.status != "ok":
        return f"FAILED  {job}: {profile.reason}"
    if profile.training is not None:
        training = profile.training
        figures = (f"{profile.metrics['step_ms']:.2f} ms a step, {training.step_time_ratio.median:.2f} x "
                   f"{training.reference}")
    else:
        metrics = profile.metrics
        figures = f"latency {metrics['latency_ms']:.2f} ms"
        if "speedup" in metrics:
            figures += f", {metrics['speedup']:.2f} times as fast as the teacher"
    return f"{job}: {figures}; measured in {profile.seconds:.0f} s"
