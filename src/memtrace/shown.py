"""Values that show themselves at the end of a notebook's cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.errors import MemtraceError

if TYPE_CHECKING:
    from memtrace.report.page import Block


class Shown:
    """What a value is to a notebook: a table; to IPython in a terminal the same as text."""

    def _page(self) -> list[Block]:
        """What is shown."""
        raise NotImplementedError

    def _told(self) -> list[Block]:
        # Imported upwards, only here and by those who make the page: nobody else is shown.
        from memtrace.report.page import WARNING, Line

        try:
            return self._page()
        except MemtraceError as error:
            return [Line(f"memtrace: {error}", WARNING)]

    def _repr_html_(self) -> str:
        from memtrace.report.html import html_of

        return html_of(self._told())

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from memtrace.report.html import html_of
        from memtrace.report.page import text_of

        blocks = self._told()
        return {"text/plain": text_of(blocks), "text/html": html_of(blocks)}
