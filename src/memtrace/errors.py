"""The one exception that means "the user can put this right": printed as one line, status 1."""

from __future__ import annotations


class MemtraceError(Exception):
    """A clear line of what is wrong and what to do about it; never shown with a traceback."""


def readable(text: str) -> str:
    """An argument or a path as it can be printed: bytes that are not UTF-8 as "\\xff"."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which no system call has given
        return text.encode("utf-8", "backslashreplace").decode()
