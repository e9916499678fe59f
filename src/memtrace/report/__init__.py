"""Answers in words and tables, for a terminal, a pipe or a machine."""

from __future__ import annotations
