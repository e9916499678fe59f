"""One process's datasets, attributed: read from their folders, written into others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.attribute.categories import COLUMNS as OF_CATEGORIES
from memtrace.attribute.categories import PROOFS, categorise
from memtrace.attribute.columns import NEVER, NONE, Columns, word_column
from memtrace.attribute.facts import Facts, FolderOf, read_facts
from memtrace.attribute.owners import COLUMNS as OF_OWNERS
from memtrace.attribute.owners import ParameterModules, labels
from memtrace.attribute.replaced_columns import replace_columns
from memtrace.attribute.stages import (
    AUTO,
    AUTO_NAMES,
    Place,
    StageOf,
    UserStage,
    find_stages,
    stage_rows,
)
from memtrace.attribute.steps import INFERENCE, TRAINING
from memtrace.attribute.threads import AT_A_TIME, in_order
from memtrace.attribute.timeline import COLUMNS as OF_TIMELINE
from memtrace.attribute.timeline import METRIC, CategoryOf, category_rows
from memtrace.categories import CATEGORIES
from memtrace.dataset import Part, RowGroup, parts_in, row_groups_of
from memtrace.dataset_writer import PartWriter
from memtrace.schema import SCHEMAS

#: The datasets that attribution writes; of the last two, the number of rows may change.
DATASETS = ("allocations", "steps", "stages", "timeline")
# Of `allocations`, which the rules look at together: what they need meanwhile stays small.
_ROWS_AT_A_TIME = 65_536
# Of `allocations`.
_READ = tuple(dict.fromkeys([*OF_CATEGORIES, *OF_OWNERS, *OF_TIMELINE, "alloc_seq", "stage"]))


def attribute_rows(
    folder: FolderOf, target: FolderOf, end: Place, *, parts: int = AT_A_TIME
) -> dict[str, int]:
    """Writes DATASETS, each file under the name that it has, into empty folders.

    Args:
        folder: where the process's files of each dataset are.
        target: where to write those of DATASETS.
        end: of the recording.
        parts: of `allocations` that are worked on, and in memory, at a time.

    Returns:
        How many rows the datasets have of which that may have changed.

    Raises:
        OSError, pyarrow.ArrowException: what is written there is not whole.
    """
    return _Attribution(folder, target, end).write(parts)


@dataclass
class _Shared:
    """What the parts of `allocations` are written with, by threads."""

    facts: Facts
    stages: StageOf
    modules: ParameterModules
    category_of: CategoryOf


class _Attribution:
    def __init__(self, folder: FolderOf, target: FolderOf, end: Place) -> None:
        self._target = target
        self._parts = {
            name: parts_in(folder(name), name, mapped=False)
            for name in (*DATASETS, "events", "stacks")
        }
        self._facts = read_facts(folder)
        self._training = self._facts.steps.is_training(self._facts.backward, self._facts.optimizer)
        self._marked_kinds = self._facts.steps.kinds_of_marked(self._training)
        self._stages = find_stages(self._facts, self._training, end)

    def write(self, at_a_time: int) -> dict[str, int]:
        users, largest_id = self._user_stages()
        category_of = self._write_allocations(StageOf(self._stages, users), at_a_time)
        rows = stage_rows(self._stages, largest_id + 1)
        auto = pa.Table.from_pylist(rows, schema=SCHEMAS["stages"])
        timeline = category_rows(self._parts["events"], self._parts["allocations"], category_of)
        self._write("steps", self._with_kind)
        return {
            "stages": self._write("stages", _without("kind", AUTO), auto),
            "timeline": self._write("timeline", _without("metric", METRIC), timeline),
        }

    def _user_stages(self) -> tuple[list[UserStage], int]:
        users: list[UserStage] = []
        largest_id = 0
        for group in row_groups_of(self._parts["stages"]):
            for row in group.read(["stage_id", "name", "kind", "start_seq", "end_seq"]).to_pylist():
                if row["kind"] == AUTO:
                    continue
                begin, end = row["start_seq"] or 0, row["end_seq"]
                users.append(UserStage(row["name"] or "", begin, NEVER if end is None else end))
                largest_id = max(largest_id, row["stage_id"] or 0)
        return users, largest_id

    def _write_allocations(self, stages: StageOf, at_a_time: int) -> CategoryOf:
        parts = self._parts["allocations"]
        facts = self._facts
        modules = ParameterModules(facts, self._parts["stacks"])
        shared = _Shared(facts, stages, modules, CategoryOf(_largest_id(parts)))
        target = self._target("allocations")

        def write(part: Part) -> None:
            _write_part(part, target / part.path.name, shared)

        for _ in in_order(write, parts, at_a_time=at_a_time):
            pass
        return shared.category_of

    def _with_kind(self, table: pa.Table) -> pa.Table:
        columns = Columns(table)
        codes, words = columns.words("kind")
        place = self._facts.steps.places(columns.numbers("step"))
        words = [*words, INFERENCE, TRAINING]
        # What somebody else said ("request") stays.
        ours = np.array([word in (INFERENCE, TRAINING) for word in words] + [True])[codes]
        training = np.append(self._training, False)[place]
        found = np.where(training, len(words) - 1, len(words) - 2)
        found = np.where(ours & (place != NONE), found, codes)
        for row in np.flatnonzero(ours & (place == NONE)).tolist():  # of a marked one: its calls'
            is_training = self._marked_kinds.get(int(columns.numbers("step")[row]))
            if is_training is not None:
                found[row] = len(words) - 1 if is_training else len(words) - 2
        kind = word_column(found, words)
        return table.set_column(table.column_names.index("kind"), "kind", kind)

    def _write(
        self, dataset: str, change: Callable[[pa.Table], pa.Table], more: pa.Table | None = None
    ) -> int:
        """Each file with its rows changed; more rows go to the end of the last one."""
        parts = self._parts[dataset]
        rows = 0
        for part in parts:
            tables = [change(group.read(SCHEMAS[dataset].names)) for group in row_groups_of([part])]
            if more is not None and part is parts[-1]:
                tables.append(more)
            rows += _write_tables(self._target(dataset) / part.path.name, dataset, tables)
        return rows


def _write_tables(path: Path, dataset: str, tables: Iterable[pa.Table]) -> int:
    rows = 0
    with PartWriter(path, dataset, SCHEMAS[dataset]) as writer:
        for table in tables:
            rows += table.num_rows
            if table.num_rows:
                writer.write(table.cast(SCHEMAS[dataset]))
    return rows


def _without(column: str, word: str) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        keeps: Any = pc.fill_null(pc.not_equal(table.column(column), pa.scalar(word)), True)
        return table.filter(keeps)

    return change


def _largest_id(parts: list[Part]) -> int:
    largest = 0
    for group in row_groups_of(parts):
        bounds = group.bounds("allocation_id")
        if bounds is None:
            ids = Columns.read(group, ["allocation_id"]).numbers("allocation_id")
            largest = max(largest, int(ids.max(initial=0)))
        elif bounds.high is not None:
            largest = max(largest, bounds.high)
    return largest


def _write_part(part: Part, path: Path, shared: _Shared) -> None:
    groups = list(row_groups_of([part]))
    if groups:
        tables = (_attributed(group, shared) for group in groups)
        replace_columns(part.path, "allocations", path, tables)
    else:
        _write_tables(path, "allocations", [])
    pa.default_memory_pool().release_unused()  # else it keeps a part's worth for each thread


def _attributed(group: RowGroup, shared: _Shared) -> pa.Table:
    """The columns of meaning, strings as dictionaries, and those that an older trace lacks."""
    table = group.read(_READ)
    pieces = [
        _meaning(Columns(table.slice(at, _ROWS_AT_A_TIME)), shared)
        for at in range(0, max(table.num_rows, 1), _ROWS_AT_A_TIME)
    ]
    # One dictionary for the row group: Parquet writes the words themselves where there are two.
    columns: dict[str, Any] = {
        name: pa.chunked_array([piece[name] for piece in pieces]).unify_dictionaries()
        for name in pieces[0]
    }
    for field in SCHEMAS["allocations"]:
        if field.name not in group.part.columns and field.name not in columns:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
    return pa.table(columns)


def _meaning(columns: Columns, shared: _Shared) -> dict[str, pa.Array[Any]]:
    facts = shared.facts
    verdict = categorise(columns, facts)
    shared.category_of.note(columns, verdict.category)
    modules, classes = shared.modules.of(columns, verdict)
    return {
        "category": word_column(verdict.category, CATEGORIES),
        "category_by": word_column(verdict.proof, PROOFS),
        "label": word_column(*labels(columns, verdict, facts)),
        "stage": _stage(columns, shared.stages),
        "module": word_column(*modules),
        "module_class": word_column(*classes),
    }


def _stage(columns: Columns, stages: StageOf) -> pa.Array[Any]:
    born = columns.numbers("alloc_seq")
    codes, words = columns.words("stage")
    found = stages.found(born)
    found = np.where(found == NONE, NONE, found + len(words))
    codes = np.where(stages.is_users(codes, words, born), codes, found)
    return word_column(codes, [*words, *AUTO_NAMES])
