"""Executed notebooks: cells with the magics, and what is below them, against the traces."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError

import memtrace
from memtrace.analyse.overview import GROUPED_BY
from memtrace.analyse.peak import find_peak
from memtrace.analyse.stack import told_frames
from memtrace.report.units import duration, percent, size
from notebook_runs import Cell, execute, read_html, run_notebook
from program_runs import plain_environment

pytest.importorskip("torch", exc_type=ImportError)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "notebook.ipynb"
LOAD = "%load_ext memtrace\nimport memtrace, torch"
GROW = "def grow(n):\n    kept = torch.zeros(n, 1024)\n    return kept"


def check_overview(html: str, path: Path) -> None:
    """The table says of the trace what the trace says of itself."""
    found = read_html(html)
    peaks, owners = found.tables
    peak = memtrace.open(path).peak("cpu")
    assert dict(zip(*peaks, strict=True)) == {
        "Device": "cpu",
        "Peak": size(peak.total_bytes),
        "Bytes": f"{peak.total_bytes:,}",
        "At": duration(peak.time_ns),
        "Left at the end": peaks[1][-1],
    }
    assert owners[0][0] == "Peak of cpu"
    by = ""
    told: dict[str, list[list[str]]] = {}
    for row in owners[1:]:
        by = row[0].removeprefix("by ") or by
        told.setdefault(by, []).append(row)
    assert list(told) == ["category", "module", "operator", "line"]
    for by, rows in zip(GROUPED_BY, told.values(), strict=True):
        breakdown = find_peak(memtrace.open(path), device="cpu", by=by, top=3).breakdown
        largest = [row for row in breakdown.rows if row.kind == "group"]
        assert [row[1:4] for row in rows[: len(largest)]] == [
            [row.key, size(row.total_bytes), percent(row.share_permille)] for row in largest
        ]


# ---- %%memtrace ---------------------------------------------------------------------------------

WATCHING = "{name: list(map(str, of)) for name, of in get_ipython().events.callbacks.items()}"
CELLS = {
    "load": LOAD,
    "again": f"%reload_ext memtrace\n{WATCHING}",
    "grow": GROW,
    "value": "%%memtrace -o value.memtrace --height 300\nx = grow(512)\ny = x + 1\nprint('out')\n"
    "y.shape",
    "quiet": "%%memtrace -o quiet.memtrace --no-report\nx.shape\nz = grow(8);\nz.shape;",
    "raises": "%%memtrace -o raises.memtrace --no-report\nheld = grow(16)\nheld @ held",
    "after": WATCHING,
    "await": "%%memtrace -o await.memtrace --no-report\nimport asyncio\nawait asyncio.sleep(0)\n"
    "w = grow(4)",
    "inner": "%%memtrace -o inner.memtrace --no-report\nget_ipython().run_cell('v = grow(1)')\n"
    "u = grow(2)\nNone",
    "exists": "%%memtrace -o value.memtrace --no-report\nnever = 1",
    "force": "%%memtrace -o value2.memtrace --force --no-report\nx = grow(1)",
    "no option": "%%memtrace --repotr\nnever = 1",
    "bad height": "%%memtrace --height tall\nnever = 1",
    "code above": "%%memtrace x = 1\nnever = 1",
    "nested": "with memtrace.record('outer.memtrace'):\n"
    "    get_ipython().run_cell_magic('memtrace', '-o nested.memtrace', 'never = 1')",
    "other device": "%%memtrace -o device.memtrace --device cuda:0\nx = grow(1)",
    "nothing": "%%memtrace -o nothing.memtrace\n1 + 1",
    "free name": "%%memtrace --no-report\nx = grow(1)",
    "syntax": "%%memtrace -o syntax.memtrace\nx = = 1",
    "never": "'never' in globals()",
    "line": "a = grow(1)\n\nb = %memtrace -o line.memtrace --no-report {1: grow(64)}[1].shape\nb",
    "line raises": "%memtrace -o line2.memtrace --no-report a @ a",
    "line empty": "%memtrace --no-report",
    "name": "path = 'variable.memtrace'",
    "variable": "%memtrace -o {path} --no-report c = grow(3)\nc.shape",
    "lost": "%%memtrace -o lost.memtrace\nx = grow(1)\n"
    "import shutil\nshutil.rmtree('lost.memtrace')",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def cells(folder: Path) -> dict[str, Cell]:
    return dict(zip(CELLS, run_notebook(folder, *CELLS.values()), strict=True))


def test_a_cell_shows_its_output_its_value_and_then_what_it_held(
    cells: dict[str, Cell], folder: Path
) -> None:
    cell = cells["value"]
    assert cell.kinds == ["stream", "execute_result", "display_data", "display_data"]
    assert cell.text("stdout") == "out\n"
    assert cell.value["text/plain"] == "torch.Size([512, 1024])"
    check_overview(cell.shown[0]["text/html"], folder / "value.memtrace")
    assert memtrace.open(folder / "value.memtrace").peak("cpu").total_bytes >= 2 * 512 * 4096
    assert f"{2 * 512 * 4096 / 2**20:.2f} MiB" in cell.shown[0]["text/plain"]


def test_the_report_stands_in_a_frame_that_reaches_nothing(
    cells: dict[str, Cell], folder: Path
) -> None:
    frame = read_html(cells["value"].shown[1]["text/html"])
    assert frame.tags == {"iframe"}
    assert frame.attributes["height"] == "300"
    assert frame.attributes["sandbox"] == "allow-scripts"
    page = frame.attributes["srcdoc"] or ""
    assert "default-src 'none'" in unescape(page)
    assert '"trace":"value"' in page
    assert len(page) < 1 << 20
    assert cells["value"].shown[1]["text/plain"] == "memtrace report value.memtrace"


def test_lines_are_those_of_the_notebook(cells: dict[str, Cell], folder: Path) -> None:
    trace = memtrace.open(folder / "value.memtrace")
    sources = {row.key for row in trace.peak("cpu", by="source").breakdown.rows}
    # The cell in which grow() is, and the cell that called it, at the lines that are seen there.
    assert {"In[3]:2 grow", "In[4]:3 <module>"} <= sources
    stack = next(
        frames for frames in trace.peak("cpu", by="stack").snapshot.stacks.values()
        if frames[0].function == "grow"
    )  # fmt: skip
    assert [frame.text for frame in stack[:2]] == ["In[3]:2 grow", "In[4]:2 <module>"]
    assert [frame.text for frame in told_frames(stack)] == ["In[3]:2 grow", "In[4]:2 <module>"]


def test_a_semicolon_hides_the_value_as_ever(cells: dict[str, Cell]) -> None:
    assert cells["quiet"].kinds == ["display_data"]


def test_an_exception_is_shown_as_ever_and_then_what_was_held(
    cells: dict[str, Cell], folder: Path
) -> None:
    cell = cells["raises"]
    assert cell.kinds == ["error", "display_data"]
    (error,) = cell.of_kind("error")
    assert error.ename == "RuntimeError"
    traceback = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    assert "In[6], line 3" in traceback
    assert "----> 3 held @ held" in traceback
    assert "notebook.py" not in traceback
    check_overview(cell.shown[0]["text/html"], folder / "raises.memtrace")


def test_nothing_of_it_stays_in_the_shell(cells: dict[str, Cell]) -> None:
    assert cells["after"].value == cells["again"].value
    assert cells["again"].kinds == ["execute_result"]


def test_await_and_cells_that_a_cell_runs(cells: dict[str, Cell], folder: Path) -> None:
    check_overview(cells["await"].shown[0]["text/html"], folder / "await.memtrace")
    assert len(cells["inner"].shown) == 1
    check_overview(cells["inner"].shown[0]["text/html"], folder / "inner.memtrace")
    assert memtrace.open(folder / "inner.memtrace").peak("cpu").total_bytes == 3 * 4096


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exists", "value.memtrace exists: give another name with -o"),
        ("no option", "--repotr is no option"),
        ("bad height", "--height tall: write a number of pixels"),
        ("code above", "x = 1: the code goes below"),
        ("nested", "is being recorded already"),
        ("line empty", "nothing to record"),
    ],
)
def test_what_is_refused_is_one_line_and_the_cell_is_not_run(
    cells: dict[str, Cell], name: str, said: str
) -> None:
    assert cells[name].kinds == ["stream"]
    line = cells[name].text("stderr").strip()
    assert said in line
    assert line.startswith("UsageError: memtrace: ")
    assert "\n" not in line
    assert cells["never"].value["text/plain"] == "False"


def test_a_new_trace_each_time(cells: dict[str, Cell], folder: Path) -> None:
    assert cells["free name"].shown[0]["text/plain"].startswith("notebook.memtrace: ")
    assert (folder / "notebook.memtrace").is_dir()
    assert (folder / "value2.memtrace").is_dir()
    assert not (folder / "syntax.memtrace").exists()
    assert cells["syntax"].of_kind("error")[0].ename == "SyntaxError"


def test_what_cannot_be_shown_is_one_line(cells: dict[str, Cell]) -> None:
    assert cells["other device"].kinds == ["stream"]
    assert cells["other device"].text("stderr") == (
        "memtrace: no memory of cuda:0 in this trace; it has cpu\n"
    )
    assert "allocated nothing" in cells["nothing"].shown[0]["text/plain"]
    assert len(cells["nothing"].shown) == 1
    assert cells["lost"].kinds == ["stream"]
    assert cells["lost"].text("stderr").startswith("memtrace: ")
    assert cells["lost"].text("stderr").count("\n") == 1


# ---- %memtrace ----------------------------------------------------------------------------------


def test_a_line_gives_its_value(cells: dict[str, Cell], folder: Path) -> None:
    assert cells["line"].value["text/plain"] == "torch.Size([64, 1024])"
    check_overview(cells["line"].shown[0]["text/html"], folder / "line.memtrace")
    trace = memtrace.open(folder / "line.memtrace")
    (stack,) = trace.peak("cpu", by="stack").snapshot.stacks.values()
    number = list(CELLS).index("line") + 1
    # The syntax error was a cell, too; its line is that of the cell, not of the magic's code.
    assert stack[1].text == f"In[{number}]:3 <module>"


def test_a_line_that_raises(cells: dict[str, Cell]) -> None:
    assert cells["line raises"].kinds == ["display_data", "error"]
    traceback = "\n".join(cells["line raises"].of_kind("error")[0].traceback)
    assert "notebook.py" not in traceback


def test_a_statement_and_a_variable_in_an_option(cells: dict[str, Cell], folder: Path) -> None:
    assert cells["variable"].value["text/plain"] == "torch.Size([3, 1024])"
    check_overview(cells["variable"].shown[0]["text/html"], folder / "variable.memtrace")


# ---- values that show themselves ----------------------------------------------------------------

VALUES = {
    "load": "import memtrace, sys, torch",
    "before": "r = memtrace.record('r.memtrace')\nr",
    "during": "r.start()\nx = torch.zeros(256, 1024)\nr",
    "after": "r.stop()\nr",
    "light": "sorted({'pyarrow', 'pandas'} & set(sys.modules))",
    "twice": "with memtrace.record('s.memtrace') as s:\n    y = torch.ones(10, 1024)\ns",
    "trace": "memtrace.open('r.memtrace')",
    "peak": "memtrace.open('r.memtrace').peak(by='source')",
    "at": "memtrace.open('r.memtrace').at(memtrace.open('r.memtrace').peak().time_ns)",
    "list": "[r, memtrace.open('r.memtrace')]",
    "gone": "import shutil; shutil.rmtree('s.memtrace')\ns",
}


@pytest.fixture(scope="module")
def values_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("values")


@pytest.fixture(scope="module")
def values(values_folder: Path) -> dict[str, Cell]:
    """Without the extension."""
    return dict(zip(VALUES, run_notebook(values_folder, *VALUES.values()), strict=True))


def test_a_recording_says_where_it_is(values: dict[str, Cell], values_folder: Path) -> None:
    path = values_folder / "r.memtrace"
    assert dict(values["before"].value) == {"text/plain": "<memtrace.record: not begun>"}
    assert dict(values["during"].value) == {
        "text/plain": f"<memtrace.record: recording into {str(path)!r}>"
    }
    check_overview(values["after"].value["text/html"], path)
    assert values["after"].value["text/plain"].startswith(f"{path}: ")
    check_overview(values["trace"].value["text/html"], path)
    assert "text/html" in values["twice"].value
    gone = f"<memtrace.record: was in {str(values_folder / 's.memtrace')!r}>"
    assert dict(values["gone"].value) == {"text/plain": gone}


def test_a_peak_and_a_moment_show_who_held_it(values: dict[str, Cell], values_folder: Path) -> None:
    peak = memtrace.open(values_folder / "r.memtrace").peak(by="source")
    for name in ("peak", "at"):
        found = read_html(values[name].value["text/html"])
        assert f"{peak.total_bytes:,} bytes" in found.lines[1]
        assert found.tables[0][1][1] == size(peak.total_bytes)
    assert read_html(values["peak"].value["text/html"]).tables[0][1][0] == "In[3]:2 <module>"


def test_in_a_list_they_are_short(values: dict[str, Cell]) -> None:
    assert values["list"].value["text/plain"].count("\n") <= 1


# ---- surroundings -------------------------------------------------------------------------------


def test_a_kernel_that_is_recorded_whole(tmp_path: Path) -> None:
    cells = run_notebook(
        tmp_path, LOAD, "%%memtrace\nx = torch.zeros(100, 1024)\nx.shape",
        "with memtrace.record() as r:\n    pass\nr",
        through=("-m", "memtrace", "run", "--quiet", "-o", str(tmp_path / "whole.memtrace")),
    )  # fmt: skip
    assert cells[1].value["text/plain"] == "torch.Size([100, 1024])"
    assert cells[1].shown == []
    said = cells[1].text("stderr")
    assert said.count("\n") == 1
    assert f"records all of this kernel already, into {tmp_path / 'whole.memtrace'}" in said
    assert "records all of it, into" in cells[2].value["text/plain"]
    trace = memtrace.open(tmp_path / "whole.memtrace")
    stages = trace.stages.to_pylist()
    assert "In[2]" in {stage["name"] for stage in stages}
    rows = [row for row in trace.allocations.to_pylist() if row["size_bytes"] == 100 * 4096]
    assert [(row["stage"], row["source"]) for row in rows] == [("In[2]", "In[2]:2 <module>")]


KILL = "import os, signal\nheld = grow(64)\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("whole", [True, False])
def test_a_kernel_that_is_killed(tmp_path: Path, whole: bool) -> None:
    """As when memory is out; or when it is shut down and takes longer than it is given."""
    run = ("-m", "memtrace", "run", "--quiet", "-o", str(tmp_path / "killed.memtrace"))
    begin = "import torch" if whole else "memtrace.record('killed.memtrace').start()"
    with pytest.raises(DeadKernelError):
        run_notebook(tmp_path, LOAD, GROW, begin, KILL, through=run if whole else ())
    found = memtrace.open(tmp_path / "killed.memtrace")
    rows = [row for row in found.allocations.to_pylist() if row["size_bytes"] == 64 * 4096]
    assert [row["source"] for row in rows] == ["In[2]:2 grow"]
    stack = [row for row in found.stacks.to_pylist() if row["stack_id"] == rows[0]["stack_id"]]
    assert [row["file"] for row in stack if row["depth"] < 2] == ["In[2]", "In[4]"]


def test_in_a_terminal_it_is_text(tmp_path: Path) -> None:
    text = f"{LOAD}\n{GROW}\n\n%%memtrace -o x.memtrace\nx = grow(8)\n\n\n%memtrace grow(4).shape\n"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit"],
        input=text, cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**plain_environment(), "IPYTHONDIR": str(tmp_path / "ipython")},
    )  # fmt: skip
    assert "x.memtrace: 1 event\n" in done.stdout, done.stderr
    assert re.search(r"by line +In\[3\]:2 grow +32.00 KiB", done.stdout)
    assert "torch.Size([4, 1024])" in done.stdout
    assert "report" not in done.stdout
    peak = memtrace.open(tmp_path / "x.memtrace").peak(by="stack")
    (stack,) = peak.snapshot.stacks.values()
    assert [frame.text for frame in stack[:2]] == ["In[3]:2 grow", "In[4]:2 <module>"]


def test_a_large_report_is_a_file(tmp_path: Path) -> None:
    cells = run_notebook(
        tmp_path, LOAD + "\nimport memtrace.frameworks.notebook as n\nn.MOST_INLINE_BYTES = 1000",
        "%%memtrace -o x.memtrace\nx = torch.zeros(100, 1024)",
        "%%memtrace -o x.memtrace --force\nx = torch.zeros(100, 1024)",
        "import shutil; shutil.rmtree('x.memtrace')",
        "%%memtrace -o x.memtrace\nx = torch.zeros(100, 1024)",
    )  # fmt: skip
    for place in (1, 2):
        assert len(cells[place].shown) == 1
        said = cells[place].text("stderr")
        assert re.fullmatch(
            r"memtrace: the report is [\d.]+ KiB, too large to be shown here: open x.html\n", said
        )
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert "x.html cannot be written: memtrace report x.memtrace -o FILE" in cells[4].text("stderr")


def test_names_of_the_program_are_escaped(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>&\"'"
    cells = run_notebook(
        tmp_path, LOAD,
        "class Evil(torch.nn.Module):\n"
        "    def forward(self, x):\n        return x + 1\n"
        f"Evil.__name__ = Evil.__qualname__ = {name!r}\nevil = Evil()",
        "%%memtrace -o x.memtrace\ny = evil(torch.zeros(100, 1024))",
        "memtrace.open('x.memtrace').peak(by='module')",
    )  # fmt: skip
    for data in (cells[2].shown[0], cells[3].value):
        found = read_html(data["text/html"])
        assert found.tags <= {"div", "table", "thead", "tbody", "tr", "td", "th"}
        assert name in [row[-5 if "Held by" in table[0] else 0] for table in found.tables
                        for row in table]  # fmt: skip
    assert read_html(cells[2].shown[1]["text/html"]).tags == {"iframe"}


def test_the_example(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = code
    cells = execute(notebook, tmp_path)
    assert [output for cell in cells for output in cell.of_kind("error")] == []
    shown = [cell for cell in cells if cell.shown]
    assert len(shown) >= 2
    traces = sorted(tmp_path.glob("*.memtrace"))
    assert len(traces) >= 2
    check_overview(shown[0].shown[0]["text/html"], tmp_path / "notebook.memtrace")
