"""The one exception that means "the user can put this right": printed as one line, status 1."""

from __future__ import annotations


class MemtraceError(Exception):
    """A clear line of what is wrong and what to do about it; never shown with a traceback."""


# What a terminal would obey instead of showing it: controls other than tab and new line, and the
# signs that turn the direction of text around.
_OBEYED = [*range(9), *range(11, 32), *range(0x7F, 0xA0)]
_TURNING = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\x{code:02x}" for code in _OBEYED} | {
    code: f"\\u{code:04x}" for code in _TURNING
}


def without_controls(text: str) -> str:
    """Any text so that a terminal can but show it: an escape character is "\\x1b"."""
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)


def encodable(text: str) -> str:
    """An argument, a path, a string of JSON as UTF-8 has it: bytes that are not as "\\xff"."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which no system call has given
        return text.encode("utf-8", "backslashreplace").decode()


def readable(text: str) -> str:
    """The same as it can be printed."""
    return without_controls(encodable(text))
