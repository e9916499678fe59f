"""Which owner of one trace is which of another, where the programs are two versions of one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

_SOURCE = re.compile(r"(.*):(\d+) (.*)", re.DOTALL)
#: What wraps a model, or a part of it, puts its own name into the path of its modules.
_WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)


def same_owners(by: str, a: Iterable[str], b: Iterable[str]) -> dict[str, str]:
    """What the owners of A are called in B, of those that have another name there.

    A source line is the same where it moved within its function; a module where only a wrapper
    (torch.compile, FSDP, DDP, checkpointing) was put around it or taken away. Every owner is paired
    at most once, and same_owners(by, b, a) is the inverse.
    """
    if by == "source":
        return _moved_lines(set(a), set(b))
    if by in ("module", "label"):
        return _unwrapped(set(a), set(b))
    return {}


def _unwrapped(a: set[str], b: set[str]) -> dict[str, str]:
    found: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((a - b, b - a)):
        for name in names:
            found[_bare(name)][side].append(name)
    return {left[0]: right[0] for left, right in found.values() if len(left) == len(right) == 1}


def _bare(path: str) -> str:
    parts = [part for part in path.split(".") if part not in _WRAPPERS]
    if len(parts) > 1 and parts[0] == "module":  # DistributedDataParallel, DataParallel
        del parts[0]
    return ".".join(parts)


def _moved_lines(a: set[str], b: set[str]) -> dict[str, str]:
    functions: dict[tuple[str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((a, b)):
        for name in names:
            match = _SOURCE.fullmatch(name)
            if match:
                functions[match[1], match[3]][side].append(int(match[2]))
    return {
        f"{file}:{line} {function}": f"{file}:{other} {function}"
        for (file, function), lines in functions.items()
        for line, other in _pairs(*map(sorted, lines))
        if line != other
    }


def _pairs(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    """Lines of a function in two versions of it, paired: as many as can, none crossing another.

    Of all shifts, that which pairs most lines is believed first: what was put in above moves all
    lines by as much. The shorter one on ties, then that of the lines further up.
    """
    paired: list[tuple[int, int]] = []
    left, right = set(a), set(b)
    while left and right:
        shifts = Counter(y - x for x in left for y in right if _fits(x, y, paired))
        if not shifts:
            break
        most = max(shifts.values())
        candidates = []
        for shift in (shift for shift, number in shifts.items() if number == most):
            pairs = ((x, x + shift) for x in sorted(left) if x + shift in right)
            candidates.append([pair for pair in pairs if _fits(*pair, paired)])
        best = min(candidates, key=lambda pairs: (abs(pairs[0][1] - pairs[0][0]), _heights(pairs)))
        paired += best
        left -= {x for x, _ in best}
        right -= {y for _, y in best}
    return paired


def _fits(x: int, y: int, paired: list[tuple[int, int]]) -> bool:
    """Whether the pair lies between the same pairs on both sides."""
    return all((x < other) == (y < another) for other, another in paired)


def _heights(pairs: list[tuple[int, int]]) -> list[int]:
    # The same whichever of the two versions comes first.
    return [x + y for x, y in pairs]
