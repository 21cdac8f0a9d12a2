"""What a dry run prints."""

from dataclasses import replace

import pytest

from kdbench.cli.text.forecast import forecast_to_text
from kdbench.profile.forecast import Forecast, Row

FOUND = Forecast(
    suite="quick", folder="runs/quick", cache="/cache", workers=2, runs=5, teachers=1, seconds=200.0, unknown=0,
    memory=1.2e9, memory_there=8_400_000_000, disk=790_000.0, cache_disk=1_300_000.0, disk_free=72_000_000_000,
    rows=(Row("teachers", 0, 0, 1, 0, 41.3, "timed", 41.3 / 3600),
          Row("kd", 1, 0, 2, 1, 8.04, "1 record", 16.08 / 3600), Row("semckd", 0, 0, 3, 0, 4321.0, "20.0 x ce", 3.6),
          Row("at", 0, 3, 0, 0, None, "unknown", None)),
    passes_disk=33_000_000, passes=("teacher passes: 2 runs share 33 MB",),
    notes=("timed a few steps of 1 kind of runs in 2 s",),
)


def last(found, count):
    return forecast_to_text(found).splitlines()[-count:]


def test_a_dry_run_prints_a_row_for_each_method_and_the_totals():
    assert forecast_to_text(FOUND) == """\
method    finished  n/a                to do  s a run  from       core-hours
teachers         0    0                    1     41.3  timed           0.011
kd               1    0  2 (1 failed before)     8.04  1 record        0.004
semckd           0    0                    3     4321  20.0 x ce        3.60
at               0    3                    0        -  unknown             -

5 runs to do (3 of the plan not applicable) and 1 teacher to train first, 2 at a time
time: about 3 min 20 s (3.62 core-hours)
memory: up to 1.2 GB of 8.4 GB
disk: 790 kB in runs/quick, 1.3 MB for teachers in the cache; 72 GB are free
teacher passes: 2 runs share 33 MB
note: timed a few steps of 1 kind of runs in 2 s"""


def test_with_nothing_to_do_it_says_so_and_no_time():
    nothing = replace(FOUND, runs=0, teachers=0, seconds=0.0, notes=(), rows=(
        Row("teachers", 1, 0, 0, 0, 41.0, "1 record", 0.0), Row("kd", 3, 0, 0, 0, 8.0, "3 records", 0.0)))
    assert forecast_to_text(nothing) == """\
method    finished  n/a  to do  s a run  from       core-hours
teachers         1    0      0     41.0  1 record            0
kd               3    0      0     8.00  3 records           0

nothing to do: all runs are finished; results in runs/quick"""
    at = Row("at", 0, 3, 0, 0, None, "unknown", None)
    assert last(replace(nothing, rows=(*nothing.rows, at)), 1) == [
        "nothing to do: all runs are finished (3 of the plan not applicable); results in runs/quick"]


def test_what_is_not_known_is_said_and_not_counted_as_nothing():
    blank = replace(FOUND, passes=(), unknown=6, seconds=0.0, memory=0, disk=0, notes=())
    assert last(blank, 3) == ["time: not known", "memory: not known", "disk: not known"]
    partly = replace(FOUND, passes=(), unknown=2, notes=(), cache_disk=0.0, memory_there=None)
    assert last(partly, 3) == [
        "time: about 3 min 20 s (3.62 core-hours), and 2 runs of which nothing is known",
        "memory: up to 1.2 GB", "disk: 790 kB in runs/quick; 72 GB are free"]


def test_text_of_others_stands_on_one_line():
    assert last(replace(FOUND, notes=("one\ntwo\x1b[2J",)), 1) == ["note: one two\ufffd[2J"]


@pytest.mark.parametrize("count, words", [(1, "1 run to do"), (2, "2 runs to do")])
def test_one_run_is_a_run(count, words):
    assert f"\n{words} " in forecast_to_text(replace(FOUND, runs=count))
