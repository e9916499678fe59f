"""Words of the rows that a what-if has added: what they are, and not what they were made like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from memtrace.replay.requests import Requests

Words = str | None | Sequence[str | int | None]


def described(requests: Requests, rows: int, words: Mapping[str, Words]) -> Requests:
    """The requests with other words in columns of the last `rows`; one for all, or one each."""
    table = requests.rows
    first = table.num_rows - rows
    for column, said in words.items():
        each = [said] * rows if said is None or isinstance(said, str) else said
        old = table.column(column).slice(0, first)
        if pa.types.is_dictionary(old.type):
            new = pa.array(each, pa.string()).dictionary_encode()
            both = pa.chunked_array([*old.chunks, new.cast(old.type)]).unify_dictionaries()
        else:
            both = pa.chunked_array([*old.chunks, pa.array(each, old.type)])
        table = table.set_column(table.schema.get_field_index(column), column, both)
    return replace(requests, rows=table)
