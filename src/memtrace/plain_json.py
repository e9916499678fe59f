"""JSON text of plain values, without the `json` package: see run/__init__.py for why."""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii
except ImportError:  # another implementation of Python

    def encode_basestring_ascii(text: str, /) -> str:
        escaped = "".join(
            c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}"
            for c in text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
        )
        return f'"{escaped}"'


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    # Lists and dicts of these; spelled `object` because a recursive alias helps nobody here.
    Plain: TypeAlias = object


def to_json(value: Plain) -> str:
    """One line of ASCII; a value of an unknown type becomes its str()."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if value - value == 0 else "null"
    if isinstance(value, dict):
        items = (f"{to_json(str(key))}:{to_json(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(to_json(item) for item in value) + "]"
    return encode_basestring_ascii(str(value))
