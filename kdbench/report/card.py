"""The model card of a finished run, in Hugging Face's format: Markdown with YAML at its head.

It is written from the run's record and its folder's leaderboard alone; nothing is measured for it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.analysis.answers.audit import Difference, audit
from kdbench.analysis.board import REFERENCE, Cell, Leaderboard, Row
from kdbench.analysis.shares import mean_shares
from kdbench.data import catalog
from kdbench.errors import UserError, counted, plain
from kdbench.metrics.catalog import METRICS
from kdbench.report.cite import papers, references
from kdbench.report.formatting import Table, interval, number, unit_sign
from kdbench.report.markdown import align, fill, items, safe
from kdbench.report.tables.cell import difference
from kdbench.report.tables.fairness import AUDIT, change_told, group_names
from kdbench.results.record import Record
from kdbench.version import __version__

MOST_PARTS = 20  # lines of a table of classes, groups or corruptions
FEW_SEEDS = 5  # with fewer, the card says that small differences are noise


def card(record: Record, leaderboard: Leaderboard) -> str:
    """The model card of a run. `leaderboard` is that of the run's folder. UserError if the run did not finish."""
    if record.status != "ok":
        raise UserError(f"run {record.run_id} has no network to describe: its status is {record.status!r}")
    cell = next((cell for cell in leaderboard.cells if cell.id == record.spec.cell), None)
    row = next((row for row in cell.rows if record.run_id in row.runs.values()), None) if cell else None
    sections = {
        "Model": _model(record, leaderboard), "Teacher": _teacher(record, cell), "Data": _data(record),
        "Procedure": _procedure(record), "Results": _results(record, row),
        **_bias(record, cell, row),
        "Limitations": items(_limitations(record, cell, row)), "Use": _use(record),
        "Provenance": _provenance(record, leaderboard), "Citation": _citation(record, leaderboard),
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    return f"---\n{_front(record)}\n---\n\n# {safe(_name(record))}\n\n{body}\n"


def _name(record: Record) -> str:
    spec = record.spec
    return f"{spec.student.model} by {spec.method} on {spec.dataset}, seed {spec.seed}"


def _front(record: Record) -> str:
    """The metadata of the card as YAML for Hugging Face, written by its own library."""
    from huggingface_hub import EvalResult, ModelCardData  # here, because it takes a second to import

    spec = record.spec
    results = [
        EvalResult(task_type="image-classification", dataset_type=_base(record), dataset_name=plain(spec.dataset),
                   dataset_split="test", metric_type=kind, metric_name=METRICS[name].title,
                   metric_value=record.metrics[name])
        for name, kind in (("test_accuracy", "accuracy"), ("ece", "expected_calibration_error"),
                           ("agreement", "teacher_agreement"), ("worst_class_accuracy", "worst_class_accuracy"))
        if name in record.metrics
    ]
    data = ModelCardData(
        model_name=plain(_name(record)), library_name="timm", pipeline_tag="image-classification",
        datasets=[_base(record)], metrics=["accuracy"], eval_results=results,
        tags=["image-classification", "timm", "knowledge-distillation", "kdbench", plain(spec.method)],
    )
    return data.to_yaml()


def _base(record: Record) -> str:
    """The dataset's name without its variants."""
    try:
        return catalog.parse(record.spec.dataset).base
    except UserError:
        return plain(record.spec.dataset)


# Sections.

def _facts(*columns: str, rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table of text with these columns and rows."""
    return align(Table("", list(columns), [list(row) for row in rows], len(columns)))


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"


def _model(record: Record, leaderboard: Leaderboard) -> str:
    spec = record.spec
    known = leaderboard.methods.get(spec.method)
    text = (f"An image classifier, trained by knowledge distillation with the method `{spec.method}` (family "
            f"{record.family or 'unknown'}). {known.idea if known else ''}")
    return "\n\n".join([fill(text.strip()), _facts("of the student", "value", rows=[
        ("timm architecture", spec.student.model), ("arguments", _arguments(spec.student.kwargs)),
        ("input", f"{spec.recipe.image_size} x {spec.recipe.image_size} pixels"),
        ("weights, SHA-256", record.weights_sha256 or "not recorded"),
    ])])


def _teacher(record: Record, cell: Cell | None) -> str:
    teacher = record.spec.teacher
    if teacher is None:
        return "None."
    origin = {"run": "trained by kdbench on the same dataset", "hub": "timm's published weights",
              "file": "a file of weights"}[teacher.kind]
    rows = [("timm architecture", teacher.architecture.model), ("arguments", _arguments(teacher.architecture.kwargs)),
            ("origin", origin)]
    if teacher.kind == "run":
        size = teacher.run.recipe.train_size
        rows.append(("training images", "all" if size is None else f"{size:,}"))
    known = cell.teacher.metrics if cell and cell.teacher else {}
    rows += [(METRICS[name].title, _value(name, value)) for name, value in known.items()
             if name in ("test_accuracy", "worst_class_accuracy")]
    return _facts("of the teacher", "value", rows=rows)


def _data(record: Record) -> str:
    rows = [("name", record.spec.dataset)]
    try:
        parsed = catalog.parse(record.spec.dataset)
        rows += [("what it is", parsed.info.description), ("source", parsed.info.source),
                 ("licence of the data", parsed.info.licence)]
        rows += [(f"variant {name}({value:g})", catalog.MODIFIERS[name].description)
                 for name, value in parsed.modifiers]
    except UserError:
        rows.append(("what it is", "not a dataset that this kdbench knows"))
    if transfer := record.spec.transfer:
        rows.append(("besides", f"{transfer.told}; no labels of theirs were used"))
    rows.append(("SHA-256 of all splits", record.dataset_digest or "not recorded"))
    return _facts("of the data", "value", rows=rows)


def _procedure(record: Record) -> str:
    recipe = [(name, json.dumps(value) if isinstance(value, list) else str(value))
              for name, value in record.spec.training.model_dump(mode="json").items() if value not in (None, [])]
    own = [(f"{record.spec.method}: {name}", str(value)) for name, value in record.spec.hyperparameters.items()]
    return "\n\n".join([
        fill("The student started from the weights of this seed and saw the batches of this seed, as every method in "
             "the comparison did. The test split was read once, after the last epoch."),
        _facts("setting", "value", rows=[("seed", str(record.spec.seed)), *own, *recipe]),
    ])


def _results(record: Record, row: Row | None) -> str:
    seeds = len(row.seeds) if row else 1
    return "\n\n".join([
        _facts("metric", "this run", f"mean of {seeds} seeds, %", "definition", rows=[
            (METRICS[name].title, _value(name, value),
             interval(row.estimate(name), "share") if row and METRICS[name].unit == "share" else "",
             METRICS[name].definition) for name, value in record.metrics.items() if name in METRICS]),
        fill("± is half the width of the 95 % t interval over seeds; n/a with one seed."),
        *_parts(record, row),
    ])


def _parts(record: Record, row: Row | None) -> Iterable[str]:
    """Markdown tables of the accuracy on each class, on each group and under each corruption; of more than `MOST_PARTS`
    parts, only the lowest."""
    for kind, parts in mean_shares([record]).items():
        lowest = sorted(parts, key=lambda name: (parts[name].mean, name))
        names = list(parts) if len(parts) <= MOST_PARTS else lowest[:MOST_PARTS]
        of_row = row.shares.get(kind, {}) if row else {}
        yield _facts(kind if len(names) == len(parts) else f"{kind}, the {MOST_PARTS} lowest of {len(parts)}",
                     "this run, %", "mean of its seeds, %", rows=[
                         (name, number(parts[name].mean, "share"), interval(of_row.get(name), "share"))
                         for name in names])


def _bias(record: Record, cell: Cell | None, row: Row | None) -> dict[str, str]:
    """The section on the bias that the student inherited from its teacher, added or mended, by its heading; empty if no
    measure of bias can be compared with the teacher's or the plain student's."""
    if cell is None or row is None:
        return {}
    lines = list(_measures(cell, row))
    if not lines:
        return {}
    parts = [fill(f"What the teacher has of a bias as well is inherited; what the student has beyond it is added; what "
                  f"it has less than {REFERENCE}, the plain student, is mended, and more, worsened. Means over "
                  f"{len(row.seeds)} seeds, at 5 % after Holm's correction for the methods that it was compared with."),
             items(lines)]
    changes = row.harm.groups if row.harm else {}
    for attribute, own in changes.items():
        names = group_names(row, attribute)
        if len(own) == len(names) <= MOST_PARTS:
            parts.append(_facts(f"group: {attribute}", f"{REFERENCE}, %", "this method, %", "change", rows=[
                (name, number(c.reference, "share"), number(c.accuracy, "share"), change_told(c))
                for name, c in zip(names, own, strict=True)]))
    return {AUDIT: "\n\n".join(parts)}


def _measures(cell: Cell, row: Row) -> Iterable[str]:
    """A text for each measure of bias: the student's value, and its differences to the teacher's and to the plain
    student's. Measures for which neither difference is known are left out."""
    plain_rows = {other.label: other for other in cell.rows if other.is_reference}
    for metric, findings in audit(cell).items():
        own = next((one for one in findings if one.label == row.label), None)
        if own is None or (own.to_teacher is None and own.to_reference is None):
            continue
        told = [f"{METRICS[metric].title[0].upper()}{METRICS[metric].title[1:]}: {interval(own.value, 'share')} %."]
        if own.to_teacher is not None and cell.teacher is not None:
            told.append(f"The teacher has {number(cell.teacher.metrics[metric], 'share')}: "
                        f"{_said(own.to_teacher, 'less than it', 'added to it')}.")
        if own.to_reference is not None:
            plain_value = plain_rows[REFERENCE].estimate(metric)
            told.append(f"{REFERENCE} has {number(plain_value.mean if plain_value else None, 'share')}: "
                        f"{_said(own.to_reference, 'mended', 'worsened')}.")
        yield " ".join(told)


def _said(found: Difference, fairer: str, less_fair: str) -> str:
    """A difference in points with a verdict, such as "+2.52 ± 0.80 points, added to it": `fairer` or `less_fair` if the
    difference is significant, else "unclear"."""
    word = (fairer if found.fairer else less_fair) if found.significant else "unclear"
    return f"{number(found.mean, 'share', '+')} ± {number(found.half_width, 'share')} points, {word}"


def _value(metric: str, value: float) -> str:
    """The value of a metric with its unit."""
    text = number(value, "share") if METRICS[metric].unit == "share" else f"{value:.4g}"
    return f"{text} {unit_sign(metric)}".rstrip()


def _limitations(record: Record, cell: Cell | None, row: Row | None) -> Iterable[str]:
    yield (f"It knows the classes of {record.spec.dataset} only, and was tested on that dataset's test split only. It "
           "was trained to compare methods, not for use: test it on your own images before you rely on it.")
    vector = record.vectors.get("class_accuracy", [])
    scored = [(accuracy, index) for index, accuracy in enumerate(vector) if accuracy is not None]
    if cell and scored:
        lowest, index = min(scored)
        yield f"Its lowest accuracy on a class is {number(lowest, 'share')} %, on {cell.class_name(index)}."
    yield from _harm(cell, row)
    if row and len(row.seeds) < FEW_SEEDS:
        yield f"{counted(len(row.seeds), 'seed')} of it were trained: differences of a size that " \
              "seeds make are noise."
    for name, what in (("pgd_accuracy", "attacks"), ("corruption_accuracy", "corrupted images")):
        if name not in record.metrics:
            yield f"Its behaviour under {what} was not measured."
    yield from (f"Note of the run: {note}" for note in record.notes)


def _harm(cell: Cell | None, row: Row | None) -> Iterable[str]:
    """Sentences on how the method changes test accuracy, and accuracy on single classes, against the reference, or that
    the latter is withheld for lack of seeds; none for the reference itself."""
    if cell is None or row is None or row.is_reference:
        return
    if REFERENCE in row.differences:
        compared = cell.comparisons.to[REFERENCE].get(row.label)
        verdict = f", {'' if compared.significant else 'not '}significant at 5 % after Holm's correction" if compared \
            else ""
        yield (f"Against {REFERENCE} with the same seeds, its test accuracy differs by "
               f"{difference(cell, row, REFERENCE)} points (moderated 95 % interval){verdict}.")
    if row.harm is None:
        yield (f"Which classes it harms against {REFERENCE} is withheld: that takes the answers of at least three "
               "shared seeds.")
        return
    changes = {change.index: change.change for change in row.harm.classes}
    for what, classes in (("Harmed", row.harm.harmed), ("Helped", row.harm.helped)):
        told = ", ".join(f"{cell.class_name(index)} ({number(changes[index], 'share', '+')} points)"
                         for index in classes)
        yield f"{what} classes against {REFERENCE}, at 5 % after Holm's correction: {told or 'none'}."


def _use(record: Record) -> str:
    return "\n".join([
        fill("A folder that `kdbench export` wrote holds this card beside the weights:"), "", "```python",
        "import kdbench.networks  # registers the architecture resnet_cifar", "import timm", "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))", "```", "",
        fill("Its `model.onnx`, if it holds one, takes such images [B, C, H, W]. A folder with that file alone is of a "
             "network that is not one timm model."),
    ])


def _provenance(record: Record, leaderboard: Leaderboard) -> str:
    versions = record.environment.get("versions", {})
    return _facts("what", "value", rows=[
        ("run", record.run_id), ("suite", record.suite), ("trained", f"{record.started} to {record.finished}"),
        ("hardware", str(record.environment.get("gpu") or record.environment.get("cpu", "not recorded"))),
        ("kdbench commit", str(record.environment.get("git_commit") or "not recorded")),
        ("versions", _arguments(versions if isinstance(versions, dict) else {})),
        ("method's source, SHA-256", record.method_digest),
        ("predictions, SHA-256", record.predictions_sha256 or "not recorded"),
        ("leaderboard it stands in, results", leaderboard.results_hash),
        ("leaderboard it stands in, records", leaderboard.records_hash), ("card made by", f"kdbench {__version__}"),
    ])


def _citation(record: Record, leaderboard: Leaderboard) -> str:
    entries, _ = references(papers([record.spec.method], [record.spec.dataset], leaderboard.methods))
    return "\n".join(["```bibtex", "\n\n".join(entries), "```"])
