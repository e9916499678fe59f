"""What is shown first of a row, its label; and the module of weights and of what is theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memtrace.attribute.categories import IDENTITY, Verdict
from memtrace.attribute.columns import NONE, Columns, Int32s, Int64s
from memtrace.attribute.facts import Facts
from memtrace.categories import CATEGORIES
from memtrace.dataset import Part, row_groups_of

_OF_MODULES = tuple(
    CATEGORIES.index(name) for name in ("weight", "buffer", "gradient", "optimizer_state")
)
#: As gradients and states are called: "exp_avg of h.0.mlp.c_fc.weight".
_OF = " of "
_GRAPH = "graph:"

#: Columns of `allocations` that are looked at.
COLUMNS = ("allocation_id", "alloc_seq", "pool", "step", "module", "module_class")


def labels(columns: Columns, verdict: Verdict, facts: Facts) -> tuple[Int32s, list[str]]:
    """The column label as codes and words (categories.py has the rule)."""
    names = facts.names
    place = names.places(columns.numbers("allocation_id"))
    user, name = (np.append(column, NONE)[place] for column in (names.label, names.name))
    proven = np.where(verdict.proof == IDENTITY, name, NONE)
    label = np.where(user != NONE, user, proven)
    pools, words = columns.words("pool")
    texts = list(names.texts)
    of_pool = [_graph_pool(pool, facts) for pool in words]
    in_graphs = np.append(_codes(texts, of_pool), np.int32(NONE))[pools]
    return np.where(label != NONE, label, in_graphs).astype(np.int32), texts


def _graph_pool(pool: str, facts: Facts) -> str | None:
    """A pool that torch did not make for a graph is known by the captures into it."""
    if not pool.startswith(_GRAPH) and pool not in facts.graph_pools:
        return None
    return f"CUDA graph pool {pool.removeprefix(_GRAPH)}"


class ParameterModules:
    """The module of weights and buffers, by their names, and of a weight's gradient and state.

    They are made outside of any call of their module.
    """

    def __init__(self, facts: Facts, stacks: Sequence[Part]) -> None:
        self._facts = facts
        self._classes = _classes(stacks)
        self._by_begin = np.argsort(facts.steps.begin, kind="stable")

    def of(
        self, columns: Columns, verdict: Verdict
    ) -> tuple[tuple[Int32s, list[str]], tuple[Int32s, list[str]]]:
        """The columns module and module_class as codes and words, those that lack one filled in."""
        modules, module_words = columns.words("module")
        classes, class_words = columns.words("module_class")
        wanted = np.isin(verdict.category, _OF_MODULES) & (modules == NONE)
        rows = np.flatnonzero(wanted & (verdict.proof == IDENTITY))
        if not len(rows):
            return (modules, module_words), (classes, class_words)
        names = self._facts.names
        name = names.name[names.places(columns.numbers("allocation_id")[rows])]
        pairs = np.stack([name, self._roots(columns, rows)])
        unique, place = np.unique(pairs, axis=1, return_inverse=True)
        owners = [
            self._owner(names.texts[name] if name != NONE else "", root)
            for name, root in unique.T.tolist()
        ]
        place = place.reshape(-1)
        modules, classes = modules.copy(), classes.copy()
        modules[rows] = _codes(module_words, [path for path, _ in owners])[place]
        classes[rows] = _codes(class_words, [of_class for _, of_class in owners])[place]
        return (modules, module_words), (classes, class_words)

    def _owner(self, name: str, root: int) -> tuple[str | None, str | None]:
        parameter = name.rpartition(_OF)[2]
        path = parameter.rpartition(".")[0]
        if path:
            return path, self._classes.get(path)
        if not parameter or root == NONE:
            return None, None
        root_class = self._facts.steps.roots[root]
        return root_class, root_class  # the root has no path in itself

    def _roots(self, columns: Columns, rows: Int64s) -> Int32s:
        """The model that each row belongs to: its step's, else that of the last step before it."""
        steps = self._facts.steps
        order = np.append(self._by_begin, NONE)  # before the first step: of no model that is known
        born = columns.numbers("alloc_seq")[rows]
        before = order[np.searchsorted(steps.begin[self._by_begin], born, side="right") - 1]
        place = steps.places(columns.numbers("step")[rows])
        return np.append(steps.root, np.int32(NONE))[np.where(place != NONE, place, before)]


def _codes(words: list[str], wanted: list[str | None]) -> Int32s:
    """Codes of words, which are added where they are new."""
    code = {word: i for i, word in enumerate(words)}
    codes = [NONE if word is None else code.setdefault(word, len(code)) for word in wanted]
    words[:] = code
    return np.array(codes, np.int32)


def _classes(stacks: Sequence[Part]) -> dict[str, str]:
    """The class of every module path that a stack names."""
    classes: dict[str, str] = {}
    for group in row_groups_of(stacks):
        columns = Columns.read(group, ["module", "module_class"])
        (paths, path_words), (names, name_words) = (
            columns.words(name) for name in ("module", "module_class")
        )
        pairs = np.unique(np.stack([paths, names]), axis=1)
        for path, name in pairs.T.tolist():
            if path != NONE and name != NONE:
                classes.setdefault(path_words[path], name_words[name])
    return classes
