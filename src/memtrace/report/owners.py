"""Owners in words: who leaks, who pins."""

from __future__ import annotations

from memtrace.analyse.owners import Owner
from memtrace.analyse.stack import Frame
from memtrace.report.breakdown import key_text

#: Frames by the keys of groups, where stacks were grouped by.
Stacks = dict[str, tuple[Frame, ...]]


def owner_text(owner: Owner, stacks: Stacks) -> str:
    """What a group is called; of a stack its frames."""
    return owner.name if owner.key is None else key_text(owner.by, owner.key, stacks)


def mostly(owner: Owner) -> str:
    """What most of an owner's bytes are, but for what it is named by."""
    words = {
        "category": owner.category,
        "operator": owner.operator,
        "module": owner.module,
        "source": owner.source,
    }
    words.pop("source" if owner.by == "stack" else owner.by, None)
    told = [word for name, word in words.items() if word and (name, word) != ("category", "other")]
    return " · ".join(told)
