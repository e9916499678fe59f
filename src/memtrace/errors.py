"""The one exception that means "the user can put this right": printed as one line, status 1."""

from __future__ import annotations


class MemtraceError(Exception):
    """A clear line of what is wrong and what to do about it; never shown with a traceback."""
