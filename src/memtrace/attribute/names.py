"""What tensors are known to be: the names of allocations, and the categories that they prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memtrace.attribute.columns import NONE, Columns, Flags, Int8s, Int32s, Int64s, places_of
from memtrace.categories import CATEGORIES
from memtrace.dataset import Part, row_groups_of

#: Kinds of names that are categories: proof by identity.
IDENTITIES = CATEGORIES[: CATEGORIES.index("output") + 1]
_KINDS = (*IDENTITIES, "label")
_LABEL = _KINDS.index("label")
NO_CATEGORY = len(CATEGORIES)


@dataclass(frozen=True)
class Names:
    """Every allocation that has a name, once.

    Attributes:
        ids: int64[n], sorted: allocation ids.
        category: int8[n]: place in CATEGORIES of the earliest that a name proves; NO_CATEGORY.
        name: int32[n]: the first name that proves it, in `texts`; NONE.
        label: int32[n]: the user's first word on it, in `texts`; NONE.
        outputs: int64[m], sorted: ids of what a model's call returned.
    """

    ids: Int64s
    category: Int8s
    name: Int32s
    label: Int32s
    outputs: Int64s
    texts: list[str]

    def of(self, category: str) -> Int64s:
        """Ids of the allocations that names prove to be of a category."""
        chosen: Flags = self.category == CATEGORIES.index(category)
        return self.ids[chosen]

    def places(self, ids: Int64s) -> Int64s:
        """Where each allocation is in the arrays; NONE: it has no name."""
        return places_of(self.ids, ids)


def read_names(parts: Sequence[Part]) -> Names:
    """Reads `names`: memory by the number of named allocations."""
    texts: dict[str, int] = {}
    found: list[tuple[npt.NDArray[np.int64], ...]] = []
    for group in row_groups_of(parts):
        columns = Columns.read(group, ["allocation_id", "name", "kind", "since_seq"])
        kinds = columns.codes("kind", _KINDS)
        codes, words = columns.words("name")
        shared = np.array([texts.setdefault(word, len(texts)) for word in words] + [NONE], np.int64)
        known = kinds != NONE
        found.append(
            (
                columns.numbers("allocation_id")[known],
                kinds[known].astype(np.int64),
                columns.numbers("since_seq")[known],
                shared[codes[known]],
            )
        )
    columns_of = [np.concatenate(c) for c in zip(*found, strict=True)] if found else []
    ids, kinds64, since, codes64 = columns_of or [np.empty(0, np.int64)] * 4
    # By allocation, the earliest category first, then the first name: `label` sorts last.
    order = np.lexsort((since, kinds64, ids))
    ids, kinds64, codes64 = ids[order], kinds64[order], codes64[order]
    unique, first = np.unique(ids, return_index=True)
    is_identity = kinds64[first] != _LABEL
    labelled = kinds64 == _LABEL
    label_ids, label_first = np.unique(ids[labelled], return_index=True)
    label = np.full(len(unique), NONE, np.int32)
    label[np.searchsorted(unique, label_ids)] = codes64[labelled][label_first]
    return Names(
        ids=unique,
        category=np.where(is_identity, kinds64[first], NO_CATEGORY).astype(np.int8),
        name=np.where(is_identity, codes64[first], NONE).astype(np.int32),
        label=label,
        outputs=np.unique(ids[kinds64 == _KINDS.index("output")]),
        texts=list(texts),
    )
