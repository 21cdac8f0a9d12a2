"""The tables of costs: what training with each method and using the networks cost, and what tuning costs and gains."""

from collections.abc import Iterable, Mapping, Sequence

from kdbench.analysis.costs import TRAINING, USE, Cost, cost, energy_source
from kdbench.analysis.labels import facts_of
from kdbench.analysis.tuned import Order, Tuning
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import MethodInfo
from kdbench.profile.energy import WATTS_PER_CORE
from kdbench.profile.record import BUSY, Profile
from kdbench.report.formatting import NONE, Table, interval, number, three_digits
from kdbench.tune.summary import expected_best, quartiles

SCALES = {  # by metric: the column's header, and what its values are divided by
    "training_memory_bytes": ("MiB", 2**20), "flops": ("MFLOPs", 1e6), "file_bytes": ("KiB", 2**10),
    "latency_ms": ("latency ms", 1), "throughput": ("images/s", 1), "speedup": ("speed-up", 1),
    "energy_saving": ("saved %", .01),
}
SOURCES = {  # what each source of energy figures measures
    "nvml": "the counter of the whole GPU, without the processor's share",
    "rapl": "the counters of all processor packages and their memory, whatever ran on them",
    "estimate": "CPU seconds of the process times a stated wattage, no measurement",
}


def profiled_value(costs: Sequence[Cost], metric: str, label: str, value: float) -> str:
    """A profiled metric's value as text with three digits, a share in %, for the method with that label; an energy is
    followed by its source in brackets."""
    source = energy_source(costs, metric, label) if _is_energy(metric) else None
    return three_digits(100 * value if METRICS[metric].unit == "share" else value) + (f" ({source})" if source else "")


def cost_tables(costs: Sequence[Cost], name: str) -> list[Table]:
    """The tables of the costs of training and of use from the profiles of a cell, each only if there are profiles of
    it. `name` is the cell's name in their titles."""
    methods = sorted((c for c in costs if c.profile.subject == "method"), key=_by_ratio)
    tables = [_training_table(methods, name)] if methods else []
    used = list(_networks(costs))
    return tables + ([_use_table(used, costs, name)] if used else [])


def tables_of(found: Sequence[Profile], installed: Mapping[str, MethodInfo]) -> list[Table]:
    """The tables of the costs of training and of use from any profiles, cell by cell.

    `installed` has the installed methods by name, for facts about methods that the profiles do not have.
    """
    known = facts_of(found, installed)
    cells: dict[str, list[Cost]] = {}
    for profile in found:
        cells.setdefault(profile.spec.cell, []).append(cost(profile, known))
    return [table for costs in cells.values() for spec in [costs[0].profile.spec]
            for table in cost_tables(costs, f"{spec.pair} on {spec.dataset}")]


def _by_ratio(item: Cost) -> tuple[float, str]:
    return item.profile.metrics.get("step_time_ratio", float("inf")), item.label


def _training_table(methods: Sequence[Cost], name: str) -> Table:
    columns = _Columns(TRAINING, {c.profile.energy_source for c in methods if c.profile.training})
    header = ["method", *columns.header]
    header.insert(3, "quartiles")
    lines = []
    for item in methods:
        line = [item.label, *columns.line(item.profile.metrics, item.profile.energy_source)]
        ratio = item.profile.training.step_time_ratio if item.profile.training else None
        line.insert(3, f"{three_digits(ratio.low)} to {three_digits(ratio.high)}" if ratio else NONE)
        lines.append(line)
    return Table(columns.title("Cost of training", name), header, lines, 1, tuple(_training_notes(methods)))


def _networks(costs: Sequence[Cost]) -> Iterable[tuple[str, dict[str, float], str | None]]:
    """Name, metrics and energy source of the teacher, the plain student, and every network that a method deploys
    instead of the plain student."""
    for item in sorted(costs, key=lambda c: (c.profile.subject != "pair", c.label)):
        deployment, source = item.profile.deployment, item.profile.energy_source
        if deployment is None:
            continue
        if item.profile.subject == "pair":
            if deployment.teacher is not None:
                yield "teacher", deployment.teacher.metrics, source
            yield "student", deployment.metrics, source
        else:
            yield item.label, deployment.metrics, source


def _use_table(networks: Sequence[tuple[str, dict[str, float], str | None]], costs: Sequence[Cost],
               name: str) -> Table:
    columns = _Columns(USE, {source for _, _, source in networks})
    lines = [[what, *columns.line(metrics, source, absent="" if what == "teacher" else NONE)]
             for what, metrics, source in networks]
    note = ("One thread; latency of one image, its median and 95th percentile; throughput and energy at batch 64. KiB: "
            "of the model's file. FLOPs are for one image, a multiply-accumulate is two. Speed-up and saving are "
            "against the teacher, measured in turns with it. A method that is not named deploys the plain student.")
    return Table(columns.title("Cost of use", name), ["network", *columns.header], lines, 1,
                 (note, *_machine_notes([c for c in costs if c.profile.deployment])))


class _Columns:
    """The columns of a table of costs, one for each metric. The source of energy figures is named in the table's title
    if all have the same one, else behind every figure."""

    def __init__(self, metrics: Sequence[str], sources: set[str | None]):
        known = {source for source in sources if source}
        self.metrics, self.source = metrics, known.pop() if len(known) == 1 else None

    @property
    def header(self) -> list[str]:
        return [SCALES[metric][0] if metric in SCALES else METRICS[metric].header for metric in self.metrics]

    def title(self, what: str, name: str) -> str:
        return f"{what}{f' (energy: {self.source})' if self.source else ''}: {name}"

    def line(self, values: Mapping[str, float], source: str | None, absent: str = NONE) -> list[str]:
        """The cells of one line; `absent` stands for a metric without a value."""
        return [self._value(metric, values[metric], source) if metric in values else absent for metric in self.metrics]

    def _value(self, metric: str, value: float, source: str | None) -> str:
        text = three_digits(value / SCALES.get(metric, ("", 1))[1])
        return f"{text} {source}" if _is_energy(metric) and not self.source else text


def _is_energy(metric: str) -> bool:
    return METRICS[metric].unit == "joules"


def _training_notes(methods: Sequence[Cost]) -> Iterable[str]:
    """The notes of the table of training costs: how the steps were measured and on which machine, and why methods were
    not measured."""
    measured = [(c.profile.training, c.profile.spec.equal_compute) for c in methods if c.profile.training]
    if measured:
        passes = sorted({(t.step_seconds.count, t.pass_steps, 0 if equal_compute else t.run_steps, t.reference)
                         for t, equal_compute in measured})  # at equal compute, runs differ in length
        yield ("Medians over passes: " + "; ".join(
            f"{count} pass{'es' * (count > 1)} of {steps} steps drawn from all parts of a run"
            f"{f' of {run}' if run else ''}, each step in turns with one of {reference}"
            for count, steps, run, reference in passes)
            + ". quartiles: of the ratio, over passes. train: the steps of a run with their batches, without "
              "scoring and saving. MiB: peak memory of the process when it had run the method only.")
    yield from _machine_notes(methods)
    for item in methods:
        if item.profile.status != "ok":
            kind = "n/a" if item.profile.status == "inapplicable" else "Failed"
            yield f"{kind}: {item.label}: {item.profile.reason}."


def _machine_notes(costs: Sequence[Cost]) -> Iterable[str]:
    """Notes on the machines of the measurements, whether they were busy, and the sources of energy figures."""
    measured = [c.profile for c in costs if c.profile.status == "ok"]
    machines = sorted({f"{p.environment.get('gpu') or p.environment.get('cpu', 'an unknown machine')}, "
                       f"{p.environment.get('threads', 1)} thread" for p in measured})
    if machines:
        yield f"Measured alone, one at a time, on {'; '.join(machines)}."
    if (load := max((p.load_average or 0 for p in measured), default=0)) > BUSY:
        yield f"The machine's load average was up to {load:.1f} when measurements began: something else ran."
    for source in sorted({p.energy_source for p in measured if p.energy_source}):
        watts = sorted({p.watts_per_core for p in measured if p.energy_source == source and p.watts_per_core})
        yield f"Energy, {source}: {SOURCES[source]}" + (
            f", at {' or '.join(f'{w:g}' for w in watts)} W per core." if watts else ".")
    if any(p.energy_source is None for p in measured):
        yield f"Energy, {NONE}: no counter of the GPU could be read."


# Tuning.

def tuning_tables(tuning: Sequence[Tuning], order: Order | None, name: str) -> list[Table]:
    """The tables of what tuning cost and gained in a cell, and of the accuracies of its trials; or, where settings come
    from another pair, of what they gain here. Empty if nothing was tuned.

    `order` is how much tuning changes the order of methods, None if not known; `name` is the cell's name in the titles.
    """
    carried = [one for one in tuning if one.choice.carried_from]
    tuning = [one for one in tuning if not one.choice.carried_from]
    told = (_order_note(order),) if order else ()
    tables = []
    if carried:
        tables.append(Table(f"Tuned on another pair: {name}", ["method", "tuned on", "test gain"],
                            [_carried_line(one) for one in carried], 2, (*CARRIED, *told)))
    if not tuning:
        return tables
    notes = (*_tuning_notes(tuning), *told)
    return [
        *tables,
        Table(f"Tuning: {name}", ["method", "trials", "core-seconds", "kJ (estimate)", "default", "chosen", "claimed",
                                  "test gain", "optimism"], [_tuning_line(one) for one in tuning], 1, notes),
        Table(f"Trials: {name}", ["method", "what matters", "failed %", "lower", "median", "upper", "best",
                                  *(f"best of {count}" for count in _draws(tuning))],
              [_trials_line(one, _draws(tuning)) for one in tuning], 2,
              ("Mean validation accuracy of finished trials: quartiles and the highest. best of n: the highest to "
               "expect of n trials drawn at random of these, a failed or pruned one as 0 (Dodge et al., 2019). what "
               "matters: the share of the variance over the search space that each value explains by itself "
               "(functional ANOVA).",)),
    ]


CARRIED = ("Settings that were tuned on another pair. Where the defaults of both pairs differ, the default here is "
           "multiplied by the factor by which tuning changed that of the other pair. test gain: test accuracy with "
           "these settings less that by default, with its 95 % t interval.",)


def _carried_line(one: Tuning) -> list[str]:
    kept = one.choice.status == "default"
    return [one.label, one.choice.carried_from or "", "default kept" if kept else interval(one.test, "share", "+")]


def _tuning_line(one: Tuning) -> list[str]:
    choice, kept = one.choice, one.choice.status == "default"
    return [one.label, str(len(choice.trials)), f"{choice.seconds:,.0f}",
            three_digits(choice.seconds * WATTS_PER_CORE / 1000), number(choice.default_accuracy, "share"),
            number(choice.accuracy, "share"), number(one.claimed, "share", "+"),
            "default kept" if kept else interval(one.test, "share", "+"),
            "" if kept else number(one.optimism, "share", "+")]


def _draws(tuning: Sequence[Tuning]) -> list[int]:
    """The numbers of trials for which the table has the expected best accuracy: 1, 4, 16, ... and the largest number of
    trials of a method."""
    most = max(len(one.choice.trials) for one in tuning)
    return [count for count in (1, 4, 16, 64, 256, 1024, 4096) if count < most] + [most]


def _trials_line(one: Tuning, draws: Sequence[int]) -> list[str]:
    accuracies = [trial.accuracy for trial in one.choice.trials]
    finished = [value for value in accuracies if value is not None]
    spread, best = quartiles(accuracies), expected_best(accuracies)
    matters = ", ".join(f"{value} {share:.0%}" for value, share in one.choice.importance.items() if share >= .01)
    failed = sum(trial.status not in ("ok", "pruned") for trial in one.choice.trials)
    return [one.label, matters or NONE, f"{100 * failed / len(accuracies):.0f}",
            *(number(value, "share") for value in spread or (None, None, None)),
            number(max(finished, default=None), "share"),
            *(number(best[count - 1], "share") if count <= len(best) else "" for count in draws)]


def _tuning_notes(tuning: Sequence[Tuning]) -> Iterable[str]:
    yield ("default, chosen: mean validation accuracy of these trials; claimed: the chosen less the default. test "
           "gain: test accuracy, tuned less default, on seeds that no trial had, with its 95 % t interval. optimism: "
           "claimed less test gain, the part that choosing the best of many made up. kJ: core-seconds at "
           f"{WATTS_PER_CORE:g} W.")
    if failed := [one.label for one in tuning if one.choice.status == "failed"]:
        yield f"Every trial failed: {', '.join(failed)}."


def _order_note(order: Order) -> str:
    noise = "" if order.same_settings is None or order.other_settings is None else (
        f" Between two halves of the seeds it is {order.same_settings:.2f} with both by default, and "
        f"{order.other_settings:.2f} with one half tuned; both are estimates of as few methods.")
    return (f"Order of the {order.methods} methods, by default against tuned: Kendall's tau-b {order.correlation:.2f}, "
            f"95 % interval {order.low:.2f} to {order.high:.2f} (bootstrap over methods); {order.swapped} of "
            f"{order.methods * (order.methods - 1) // 2} pairs change places.{noise}")
