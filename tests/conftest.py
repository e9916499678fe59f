"""Comparisons that live outside test files show their operands when they fail, too."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("exact.comparison")
