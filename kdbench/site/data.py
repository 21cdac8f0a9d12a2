"""The rows and runs of all suites as CSV and Parquet, with a card in Hugging Face's format that says what the columns
hold."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kdbench.errors import UserError
from kdbench.report.columns import meaning
from kdbench.report.flat import COLUMNS, RUN_COLUMNS, csv_text, row_lines, run_lines, typed
from kdbench.report.formatting import Table
from kdbench.report.markdown import align, fill, items
from kdbench.site.parts import Parts, clean
from kdbench.version import __version__

SUMS = "SHA256SUMS"
LINK = "link"  # the column with the address of a row on the site
TABLES = {  # the columns of each table, with their types in pandas
    "rows": {"suite": "string", **COLUMNS, LINK: "string"},
    "runs": {"suite": "string", **{name: kind for name, kind in RUN_COLUMNS.items() if name != "suite"}},
}
# Hugging Face's size categories by their limits, which are numbers of rows that no longer belong to them.
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


def need_packages() -> None:
    """Raise UserError if pyarrow, which writes Parquet files, is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError('kdbench publish needs pyarrow: pip install "kdbench[publish]"') from error


def data_files(parts: Parts) -> dict[str, bytes]:
    """The contents of the data files by name: each table as CSV and as Parquet, the card README.md, and the SHA-256
    sums of these."""
    found = {"rows": list(_rows(parts)), "runs": list(_runs(parts))}
    files = {}
    for name, lines in found.items():
        files[f"{name}.csv"] = (csv_text(TABLES[name], lines) + "\n").encode()
        files[f"{name}.parquet"] = _parquet(TABLES[name], lines)
    files["README.md"] = _card(parts, {name: len(lines) for name, lines in found.items()}).encode()
    return {**files, SUMS: sums(files)}


def sums(files: Mapping[str, bytes]) -> bytes:
    """The SHA-256 sums of files, whose contents are given by name, in the format of `sha256sum -c`."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


def _rows(parts: Parts) -> Iterator[dict[str, Any]]:
    for part in parts:
        links = [link for cell in part.board.cells
                 for link in (*[None] * bool(cell.teacher), *(part.address(cell, row) for row in cell.rows))]
        for line, link in zip(row_lines(part.board), links, strict=True):
            yield {**clean(line), "suite": part.name, LINK: link}


def _runs(parts: Parts) -> Iterator[dict[str, Any]]:
    for part in parts:
        for line in run_lines(part.store):
            yield {**clean(line), "suite": part.name}


def _parquet(columns: Mapping[str, str], lines: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines as a Parquet file, without the versions of libraries that pandas would add to it. Lists and dicts are
    written as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = typed(columns, lines)
    for name, kind in columns.items():
        if kind == "object":
            frame[name] = frame[name].map(lambda value: None if value is None else json.dumps(value)).astype("string")
    types = {"string": pa.string(), "object": pa.string(), "Int64": pa.int64(), "float64": pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    target = io.BytesIO()
    pq.write_table(table, target, compression="zstd")
    return target.getvalue()


# The card.

def _card(parts: Parts, counts: Mapping[str, int]) -> str:
    """The text of README.md."""
    suites = Table("", ["suite", "methods", "pairs", "datasets", "runs", "results, SHA-256"], [[
        part.name, str(len({row.method for cell in part.board.cells for row in cell.rows})),
        ", ".join(sorted({cell.pair for cell in part.board.cells})),
        ", ".join(sorted({cell.dataset for cell in part.board.cells})), str(part.runs), part.board.results_hash]
        for part in parts], 6)
    licences = items(f"{name}: {told}" for name, told in parts.licences())
    paragraphs = [
        f"---\n{_front(parts, max(counts.values()))}\n---", "# kdbench: results of knowledge distillation",
        fill("A large network teaches a small one: kdbench compares methods to do so, on the same teachers, students, "
             "images, batches and seeds. This is what its runs gave, as tables. `rows` has a line for each method in "
             "each cell, which is one pair of networks, one dataset and one recipe, with intervals over seeds and "
             "paired differences to the references; and one for each cell's teacher. `runs` has a line for each run."),
        align(suites), "## Use", "```python\nimport pandas\n\nrows = pandas.read_parquet(\"rows.parquet\")\n"
        'best = rows[rows.tier == 1][["suite", "pair", "dataset", "method", "test_accuracy_mean"]]\n```',
        fill("The CSV files hold the same. A cell of theirs that begins with =, +, - or @ has an apostrophe before it, "
             "so that no spreadsheet takes it for a formula. Lists and dicts are JSON in both. What is missing is "
             "empty, null in Parquet. `sha256sum -c SHA256SUMS` checks the files."),
        "## Columns of rows", _columns("rows"), "## Columns of runs", _columns("runs"), "## Licences",
        fill(f"The results: {parts.licence}. No image is part of them; the datasets are:"), licences, "## Made by",
        fill(f"kdbench {__version__}, from records of runs that ended up to {parts.finished[:10]}."),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _front(parts: Parts, most: int) -> str:
    """The YAML at the top of the card, as Hugging Face's own library writes it. `most` is the number of lines of the
    largest table."""
    from huggingface_hub import DatasetCardData  # here, because it takes a second to import

    return DatasetCardData(
        license=parts.licence, pretty_name="kdbench: results of knowledge distillation",
        task_categories=["image-classification"], tags=["knowledge-distillation", "benchmark", "kdbench"],
        size_categories=[next((told for limit, told in SIZES.items() if most < limit), "1M<n<10M")],
        configs=[{"config_name": name, "data_files": f"{name}.parquet", **({"default": True} if name == "rows" else {})}
                 for name in TABLES],
    ).to_yaml()


def _columns(table: str) -> str:
    told = {**meaning(), LINK: "address of the row on the site that this was published with"}
    types = {"string": "text", "object": "JSON", "Int64": "integer", "float64": "number"}
    aligned = align(Table("", ["column", "type", "what it holds"], [
        [f"`{name}`", types[kind], told[name]] for name, kind in TABLES[table].items()], 3))
    return re.sub(" {2,}", " ", re.sub("-{4,}", "---", aligned))  # the aligned table is four times as large
