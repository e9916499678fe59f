"""`%load_ext memtrace`: `%%memtrace` records a cell of a notebook and shows what it held.

The cell is run by IPython itself, between the beginning and the end of a recording: its value, its
output, its exceptions and its line numbers are what they are without the magic.
"""

from __future__ import annotations

import ast
import io
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import needs_local_scope, no_var_expand, output_can_be_silenced
from IPython.display import display

from memtrace import recording
from memtrace.errors import MemtraceError
from memtrace.session import record, stage

#: A report that is larger is a file and not a part of the notebook.
MOST_INLINE_BYTES = 4 << 20
_HEIGHT = 640
_CELL = re.compile(r"%%memtrace(?:[ \t]+(.*))?$")
_OPTION = re.compile(
    r"""\s*(?:(?P<flag>--force|--report|--no-report)(?=\s|$)
    |(?P<name>-o|--output|--device|--height)(?:=|\s+)
     (?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>\S+)))""",
    re.VERBOSE,
)
_USAGE = "%%memtrace [-o TRACE] [--force] [--device NAME] [--report | --no-report] [--height N]"


@dataclass(frozen=True)
class Options:
    """What was asked for; `height`: of the report, in pixels."""

    trace: str | None = None
    force: bool = False
    device: str | None = None
    report: bool = True
    height: int = _HEIGHT


def add_magics(shell: Any) -> None:
    """Adds the magics; once, however often the extension is loaded."""
    if "memtrace" in shell.magics_manager.magics["cell"]:
        return
    magics = _Magics(shell)
    shell.register_magic_function(magics.line, "line", "memtrace")
    shell.register_magic_function(magics.cell, "cell", "memtrace")
    shell.input_transformers_cleanup.append(_begin_in_cell)


def _begin_in_cell(lines: list[str]) -> list[str]:
    """`%%memtrace ...` as a line that begins the recording; the cell below it stays as it is."""
    found = _CELL.match(lines[0].rstrip()) if lines else None
    if found is None:
        return lines
    begin = f"get_ipython().run_cell_magic('memtrace', {found[1] or ''!r}, ' ')\n"
    return [begin, *lines[1:]]


# In a terminal, where a cell is typed line by line: its first line alone is no whole cell.
_begin_in_cell.has_side_effects = True  # type: ignore[attr-defined]


def read_options(text: str) -> tuple[Options, str]:
    """The options that a text begins with, and the rest of it.

    Raises:
        UsageError: there is no such option, or its value is none.
    """
    given: dict[str, Any] = {}
    place = 0
    while found := _OPTION.match(text, place):
        place = found.end()
        value = next((v for v in found.group("double", "single", "word") if v is not None), "")
        if found["flag"] == "--force":
            given["force"] = True
        elif found["flag"]:
            given["report"] = found["flag"] == "--report"
        elif found["name"] == "--device":
            given["device"] = value
        elif found["name"] == "--height":
            if not value.isdecimal() or not int(value):
                raise UsageError(f"memtrace: --height {value}: write a number of pixels")
            given["height"] = int(value)
        else:
            given["trace"] = value
    rest = text[place:].strip()
    if re.match(r"--\w|-o\b", rest):
        raise UsageError(f"memtrace: {rest.split()[0]} is no option, or lacks its value: {_USAGE}")
    return Options(**given), rest


class _Magics:
    """The magics of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    @no_var_expand
    @output_can_be_silenced
    @needs_local_scope
    def line(self, line: str, local_ns: dict[str, Any] | None = None) -> Any:
        """Record one statement and show what it held; gives the value of an expression.

        %memtrace [-o TRACE] [--force] [--device NAME] [--report | --no-report] [--height N] CODE
        """
        __tracebackhide__ = True
        options, code = self._options(line)
        if not code:
            raise UsageError(f"memtrace: nothing to record: %memtrace CODE, or {_USAGE}")
        nodes, file = self._parse(code)
        recorded = _Recorded(options, self._shell)
        try:
            return self._run(nodes, file, local_ns)
        finally:
            recorded.finish()

    @no_var_expand
    def cell(self, line: str, body: str) -> None:
        """Record a cell and show below it what it held.

        %%memtrace [-o TRACE] [--force] [--device NAME] [--report | --no-report] [--height N]

        -o TRACE     where the trace goes; by default notebook.memtrace, with the next free number
        --force      replace TRACE, and the file of its report
        --device     show only this one, such as cuda:0
        --no-report  the table only, without the page of `memtrace report`
        --height     of that page, in pixels
        """
        options, rest = self._options(line)
        if rest:
            raise UsageError(f"memtrace: {rest}: the code goes below: {_USAGE}")
        recorded = _Recorded(options, self._shell)
        _AtEndOfCell(self._shell, recorded)
        if body.strip():  # called as a function: below a line %%memtrace the cell stands as it is
            self._shell.run_cell(body).raise_error()

    def _options(self, line: str) -> tuple[Options, str]:
        options, rest = read_options(line)
        if options.trace is None:
            return options, rest
        trace = self._shell.var_expand(options.trace)
        return Options(**{**vars(options), "trace": trace}), rest

    def _parse(self, code: str) -> tuple[list[ast.stmt], str]:
        """The statements, at their line of the cell, and the file that it is called."""
        compiler = self._shell.compile
        text = self._shell.transform_cell(code)
        file, first_line, _ = _calling_cell(self._shell) or (compiler.cache(text), 1, "")
        tree = self._shell.transform_ast(compiler.ast_parse(text, file))
        ast.increment_lineno(tree, first_line - 1)
        return tree.body, file

    def _run(self, nodes: list[ast.stmt], file: str, local_ns: dict[str, Any] | None) -> Any:
        __tracebackhide__ = True
        namespaces = (self._shell.user_global_ns, local_ns)
        last = nodes[-1] if nodes and isinstance(nodes[-1], ast.Expr) else None
        before = ast.Module(nodes[:-1] if last else nodes, [])
        exec(self._shell.compile(before, file, "exec"), *namespaces)
        if last is None:
            return None
        return eval(self._shell.compile(ast.Expression(last.value), file, "eval"), *namespaces)


class _Recorded:
    """A recording that is shown when it ends; it begins at once."""

    def __init__(self, options: Options, shell: Any) -> None:
        self._options = options
        self._shows_html = "text/html" in shell.display_formatter.active_types
        self._record: record | None = None
        self._stage: stage | None = None
        running = recording.current()
        if running is not None and running.is_run:
            # All of the kernel is recorded, and is a whole trace when it ends: a stage of that.
            cell = _calling_cell(shell)
            self._name = "%memtrace" if cell is None else cell[2]
            self._stage = stage(self._name)
            self._stage.__enter__()
            return
        self._record = record(options.trace, force=options.force)
        try:
            self._record.start()
        except MemtraceError as error:
            raise UsageError(f"memtrace: {error}") from None

    def finish(self) -> None:
        """End it and show what was held; what goes wrong is one line, never the cell's error."""
        try:
            if self._record is None:
                assert self._stage is not None
                self._stage.__exit__(None, None, None)
                running = recording.current()
                into = "" if running is None else f", into {running.trace_dir}"
                _say(
                    f"`memtrace run` records all of this kernel already{into}: this is its stage "
                    f"{self._name}; open the trace when the kernel has ended"
                )
                return
            self._record.stop()
            _show(self._record, self._options, html=self._shows_html)
        except (MemtraceError, OSError) as error:
            _say(str(error))


class _AtEndOfCell:
    """Finishes a recording when the cell in which it began has been run, however that ended."""

    def __init__(self, shell: Any, recorded: _Recorded) -> None:
        self._events = shell.events
        self._recorded = recorded
        self._inner = 0  # cells that this one runs itself
        self._events.register("pre_run_cell", self._begin_inner)
        self._events.register("post_run_cell", self._end)

    def _begin_inner(self, *_: object) -> None:
        self._inner += 1

    def _end(self, *_: object) -> None:
        if self._inner:
            self._inner -= 1
            return
        self._events.unregister("pre_run_cell", self._begin_inner)
        self._events.unregister("post_run_cell", self._end)
        self._recorded.finish()


def _calling_cell(shell: Any) -> tuple[str, int, str] | None:
    """The file and the line of the cell that is running now, and what it is called: "In[3]"."""
    frame = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        named = shell.compile.format_code_name(file)
        if named is not None:
            return file, frame.f_lineno, named[1].replace(" ", "")
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _say(text: str) -> None:
    sys.stderr.write(f"memtrace: {text}\n")


def _show(recorded: record, options: Options, *, html: bool) -> None:
    """`html`: whether this shell shows any; a terminal has the table as text."""
    from memtrace.analyse.overview import take_overview
    from memtrace.report.html import html_of
    from memtrace.report.overview import overview_page
    from memtrace.report.page import text_of
    from memtrace.trace import open_trace

    assert recorded.path is not None
    path = Path(recorded.path)
    here = Path.cwd()
    trace = open_trace(path.relative_to(here) if path.is_relative_to(here) else path)
    overview = take_overview(trace, device=options.device)
    blocks = overview_page(overview)
    _display(text_of(blocks), html_of(blocks))
    if not html or not options.report or not overview.devices:
        return
    page = report_page(trace, options.device)
    if len(page) <= MOST_INLINE_BYTES:
        _display(f"memtrace report {trace.path}", frame_html(page, options.height))
    else:
        _say(_write_beside(trace.path, page, force=options.force))


def _display(text: str, html: str) -> None:
    display({"text/plain": text, "text/html": html}, raw=True)  # type: ignore[no-untyped-call]


def report_page(trace: Any, device: str | None = None) -> bytes:
    """The page of `memtrace report`."""
    from memtrace.outputs import Selection
    from memtrace.page.report import write_report

    out = io.BytesIO()
    write_report(trace, Selection(device), out)
    return out.getvalue()


def frame_html(page: bytes, height: int) -> str:
    """The page inside another: it reaches nothing of that, and no network."""
    from markupsafe import escape

    return (
        f'<iframe title="memtrace report" sandbox="allow-scripts" width="100%" height="{height}" '
        f'style="border:1px solid rgba(128,128,128,.4)" srcdoc="{escape(page.decode())}"></iframe>'
    )


def _write_beside(trace: Path, page: bytes, *, force: bool) -> str:
    """Writes the page that is too large to be shown; what to say of it."""
    from memtrace.output_file import output_file
    from memtrace.report.units import size

    path = trace.with_name(trace.name.removesuffix(".memtrace") + ".html")
    large = f"the report is {size(len(page))}, too large to be shown here"
    with suppress(MemtraceError):
        with output_file(path, force=force) as out:
            out.write(page)
        return f"{large}: open {path}"
    return f"{large}, and {path} cannot be written: memtrace report {trace} -o FILE"
