"""The report in a browser: its figures, its ways about, and that it runs nothing of a trace's."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from memtrace.analyse.peak import find_peak
from memtrace.report.as_json import peak_document
from memtrace.report.units import exact, size
from memtrace.trace import open_trace
from page.conftest import Page
from trace_builder import TraceBuilder, failing_trace, serving_trace

Make = Callable[..., Page]
MIB = 2**20


def peak_json(trace: Path, by: str, device: str = "cuda:0") -> dict[str, Any]:
    return peak_document(find_peak(open_trace(trace), device=device, by=by))


def groups(document: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {g["key"]: (g["bytes"], g["allocations"]) for g in document["groups"]}


# ---- the peak -----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["category", "module", "operator", "source"])
def test_the_peak_is_what_memtrace_peak_says(make_page: Make, tmp_path: Path, by: str) -> None:
    page = make_page(serving_trace)
    told = peak_json(tmp_path / "x.memtrace", by)
    shown = page.run(
        "return scope.grouped(scope.liveSites(report.cut), arguments[0])"
        ".map(({name, bytes, blocks}) => [name, bytes, blocks])",
        by,
    )
    assert {name: (held, blocks) for name, held, blocks in shown} == groups(told)
    cut = page.run("return document.getElementById('cut-bytes').dataset.bytes")
    headline = page.run("return document.querySelector('#headline h1').dataset.bytes")
    assert int(cut) == int(headline) == told["total_bytes"]
    assert exact(told["total_bytes"]) in page.text("#instant-line")


def test_the_headline_answers(make_page: Make, tmp_path: Path) -> None:
    page = make_page(serving_trace)
    told = peak_json(tmp_path / "x.memtrace", "category")
    headline = page.text("#headline")
    assert headline.startswith(size(told["total_bytes"]))
    assert "peak of cuda:0" in headline
    assert "of 80.00 GiB" in headline
    assert "Most by line load.py:12 load 96.00 MiB" in headline
    reached = told["reached_by"]
    assert f"Reached by {size(reached['block_bytes'])}" in headline
    assert page.browser.title == f"{size(told['total_bytes'])} peak on cuda:0 · x"
    for category in told["categories"]:
        assert f"{category['category'].replace('_', ' ')} {size(category['bytes'])}" in headline


def test_the_live_set_is_told_allocation_by_allocation(make_page: Make, tmp_path: Path) -> None:
    page = make_page(serving_trace)
    live = find_peak(open_trace(tmp_path / "x.memtrace"), device="cuda:0").live
    shown = page.run(
        "return report.live.allocations.shown.map("
        "(row) => [scope.rows.id[row], scope.rows.bytes[row]])"
    )
    ids, sizes = live.column("allocation_id").to_pylist(), live.column("bytes").to_pylist()
    assert sorted(map(tuple, shown)) == sorted(zip(ids, sizes, strict=True))
    assert "every allocation" in page.text("#instant-line")


def test_details_of_an_allocation_with_its_stack(make_page: Make) -> None:
    page = make_page(serving_trace)
    page.search("h.3.mlp.weight")
    page.click("#panel-live .table-row")
    detail = page.text("#panel-live .detail")
    assert "16.00 MiB (16,777,216 bytes)" in detail
    assert "h.3.mlp.weight" in detail
    assert page.texts("#panel-live .detail .stack li") == [
        "load.py:12 from_pretrained", "serve.py:88 main",
    ]  # fmt: skip


# ---- searching and sorting ----------------------------------------------------------------------


def test_search_and_sort(make_page: Make) -> None:
    page = make_page(serving_trace)
    sizes = page.run("return report.live.allocations.shown.map((row) => scope.rows.bytes[row])")
    assert sizes == sorted(sizes, reverse=True)
    page.search("H.2.MLP.")
    assert [row[2] + row[3] for row in page.rows()] == [
        "h.2.mlp.weightoutside any module", "h.2.mlp.c_fc",
    ]  # fmt: skip
    page.search("")
    page.click("#panel-live .table-head > div:nth-child(4) button")  # Module
    modules = [row[3] for row in page.rows()]
    assert modules == sorted(modules)
    page.click("#panel-live .table-head > div:nth-child(4) button")
    assert page.rows()[0][3] == "outside any module"
    page.search("nothing has this name")
    assert page.rows() == []


def test_a_hundred_thousand_rows_are_few_elements(make_page: Make) -> None:
    page = make_page(serving_trace)
    page.run(
        "const n = scope.rows.born.length;"
        "report.live.allocations.setRows(Array.from({length: 100000}, (_, i) => i % n));"
    )
    page.run("report.live.allocations.view.scrollTop = 1e9")
    rows = page.rows()
    assert 5 < len(rows) < 100
    last = page.run(
        "return document.querySelectorAll('#panel-live [aria-rowindex=\"100000\"]').length"
    )
    assert last == 1


# ---- ways about ---------------------------------------------------------------------------------


def test_jumps_by_buttons_and_keys(make_page: Make) -> None:
    page = make_page(failing_trace)
    seqs = page.run("return scope.instants.filter((i) => i.kind === 'oom').map((i) => i.seq)")
    assert len(seqs) == 2
    seq = "return scope.cuts.seq[report.cut]"
    page.click("#jump-oom")  # after the peak comes the last one
    assert page.run(seq) == seqs[1]
    page.press("o")
    assert page.run(seq) == seqs[0]
    assert "Out of memory 1" in page.text("#instant-line")
    page.press("p")
    assert page.run(seq) == page.run("return scope.headline.seq")
    page.press("[")
    assert page.run(seq) < page.run("return scope.headline.seq")
    page.press("]", "]")
    assert page.run(seq) > page.run("return scope.headline.seq")
    banner = page.text("#headline .bad-banner")
    assert "Out of memory 2 times, the last at" in banner
    assert (
        "aten::mm (of aten::linear) in h.3.mlp (model.py:88 forward) asked for 150.0 MiB" in banner
    )


def test_zoom_pan_and_tabs_by_keys(make_page: Make) -> None:
    page = make_page(serving_trace)
    view = "const {start, end} = report.timeline.view; return [start, end]"
    whole = page.run(view)
    page.press("+")
    start, end = page.run(view)
    assert (end - start) * 1.5 < whole[1] - whole[0]
    page.press(Keys.ARROW_RIGHT)
    assert page.run(view)[0] > start
    page.press("-", "0")
    assert page.run(view) == whole
    for key, name in (("3", "lifetimes"), ("4", "segments"), ("5", "stages"), ("7", "about")):
        page.press(key)
        assert page.run("return report.tab") == name
    page.press("6")  # nothing failed: there is no such tab
    assert page.run("return report.tab") == "about"
    page.press("1", "/", "h.1.mlp.w", Keys.ESCAPE, "2")
    assert page.run("return [report.live.search, report.tab]") == ["h.1.mlp.w", "range"]
    page.press("?")
    assert page.run("return document.getElementById('keys').open")


def test_a_table_by_keys(make_page: Make) -> None:
    page = make_page(serving_trace)
    page.run("document.querySelector('#panel-live .table-view').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    page.settle()
    assert page.run("return report.live.allocations.active") == 2
    assert not page.run("return report.live.detail.hidden")
    page.press(Keys.END)
    assert page.run(
        "const {active, shown} = report.live.allocations; return active === shown.length - 1"
    )


def test_the_mouse_zooms_pans_and_selects(make_page: Make) -> None:
    page = make_page(serving_trace)
    drag = """
      const [shift, from, to] = arguments;
      const canvas = report.timeline.canvas;
      const box = canvas.getBoundingClientRect();
      const at = (share) => ({clientX: box.left + share * box.width, clientY: box.top + 80,
        pointerId: 1, button: 0, buttons: 1, shiftKey: shift, bubbles: true});
      canvas.setPointerCapture = () => {};
      for (const [name, share] of [['down', from], ['move', to], ['up', to]])
        canvas.dispatchEvent(new PointerEvent('pointer' + name, at(share)));
    """
    page.run(drag, True, 0.2, 0.7)
    assert page.run("return report.tab") == "range"
    first, last = page.run("return [report.range.range.from, report.range.range.to]")
    assert first < last
    whole = page.run("return report.timeline.view.end - report.timeline.view.start")
    page.run(
        "const c = report.timeline.canvas; const b = c.getBoundingClientRect();"
        "c.dispatchEvent(new WheelEvent('wheel', {deltaY: -300, clientX: b.left + 400}))"
    )
    view = "return report.timeline.view"
    zoomed = page.run(view)
    assert zoomed["end"] - zoomed["start"] < whole / 2
    page.run(drag, False, 0.5, 0.6)
    assert page.run(view)["start"] < zoomed["start"]
    page.run(drag, False, 0.5, 0.5)  # a click: the instant there
    assert page.run("return report.tab") == "live"


# ---- a range ------------------------------------------------------------------------------------


def test_sums_of_every_range_agree_with_the_table(make_page: Make, tmp_path: Path) -> None:
    page = make_page(serving_trace)
    rows = open_trace(tmp_path / "x.memtrace").allocations.to_pylist()
    rows = [row for row in rows if row["device"] == "cuda:0"]
    cuts = page.run("return Array.from(scope.cuts.seq)")
    for i, j in ((0, len(cuts) - 1), (3, 9), (5, 6), (4, 4), (10, len(cuts) - 2)):
        page.run("report.setRange(arguments[0], arguments[1])", i, j)
        low, high = cuts[i], cuts[j]
        new = [r for r in rows if low < r["alloc_seq"] <= high]
        gone = [r for r in rows if r["free_seq"] is not None and low < r["free_seq"] <= high]
        kept = [r for r in new if r not in gone]
        for name, chosen in (("allocated", new), ("freed", gone), ("kept", kept)):
            card = page.run(
                "return {...document.querySelector(`[data-change=${arguments[0]}]`).dataset}", name
            )
            assert int(card["bytes"]) == sum(row["block_bytes"] for row in chosen)
            assert int(card["blocks"]) == len(chosen)
    page.run("report.setRange(0, scope.cuts.seq.length - 1)")
    (owner,) = [r for r in page.rows("#panel-range") if r[0] == "cache.py:33 update"]
    assert owner == ["cache.py:33 update", "6.00 MiB", "6", "", "", "6.00 MiB", "6"]
    page.click('#controls [data-choice="category"]')
    assert {row[0] for row in page.rows("#panel-range")} == {
        "weight", "kv_cache", "activation", "other",
    }  # fmt: skip


# ---- what a trace says is text ------------------------------------------------------------------

EVIL = '</script><script>window.ran = 1</script><img src=x onerror="window.ran = 1">"\u2028&amp;\''


def evil_trace(path: Path) -> Path:
    builder = TraceBuilder(path)
    p = builder.process(argv=json.dumps(["serve.py", EVIL]))
    p.stack(1, (EVIL, f"/srv/{EVIL}.py", 3))
    with p.stage(EVIL), p.step(root_module=EVIL):
        p.segment("cuda:0", 2 * MIB, pool=EVIL, small=False)
        p.alloc(
            "cuda:0", MIB, module=EVIL, operator=EVIL, source=EVIL, label=EVIL, category=EVIL,
            stack_id=1, pool=EVIL,
        )  # fmt: skip
    p.oom("cuda:0", 4 * MIB, MIB, {"operator": EVIL, "module": EVIL, "source": EVIL}, stack_id=1)
    return builder.write()


def test_markup_is_shown_and_not_run(make_page: Make, tmp_path: Path) -> None:
    page = make_page(evil_trace)
    assert EVIL.split("\u2028")[0] in page.text("#command")
    assert "onerror" in page.text("#headline")
    page.click("#panel-live .table-row")
    assert page.text("#panel-live .detail").count("onerror") >= 5
    for tab in ("range", "lifetimes", "segments", "stages", "oom", "about"):
        page.run("report.setTab(arguments[0])", tab)
        page.settle()
    page.run("report.setTab('live'); report.live.setMode('icicle')")
    page.settle()
    assert page.run("return window.ran") is None
    assert page.run("return document.images.length") == 0
    assert page.complaints() == []
    html = (tmp_path / "page.html").read_text()
    assert "onerror" not in html.split("</style>")[-1].split('id="memtrace-columns"')[0].replace(
        r"onerror=\"window.ran = 1\"\u003e", ""
    )


def test_nothing_else_runs_and_nothing_is_fetched(make_page: Make) -> None:
    page = make_page(serving_trace)
    assert page.complaints() == []
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    page.run(
        "const bad = document.createElement('script'); bad.textContent = 'window.ran = 1';"
        "document.body.append(bad);"
        "const image = document.createElement('img'); image.src = 'https://example.invalid/x.png';"
        "document.body.append(image);"
        "document.body.setAttribute('onclick', 'window.ran = 1'); document.body.click();"
    )
    assert page.run("return window.ran") is None
    said = page.complaints()
    assert len(said) >= 3
    assert all("Content Security Policy" in line for line in said)


# ---- traces of every kind -----------------------------------------------------------------------


def test_a_trace_without_events(make_page: Make) -> None:
    def build(path: Path) -> Path:
        builder = TraceBuilder(path)
        builder.process(torch_version=None)
        return builder.write()

    page = make_page(build)
    assert "No allocation was recorded" in page.text("#nothing")
    assert "never imported torch" in page.text("#nothing")
    assert page.browser.title == "no memory recorded · x"
    assert page.complaints() == []


def test_lost_events_are_told(make_page: Make) -> None:
    page = make_page(
        lambda path: serving_trace(
            path, lost_events=json.dumps({"event_no_space": 12, "stack_too_deep": 3}), lost_total=12
        )
    )
    banner = page.text("#headline .warn-banner")
    assert "Lost: 12 records (12 event_no_space): figures are bounds" in banner
    assert "Cut: 3 stacks cut at 512 frames" in banner


def test_a_program_of_the_cpu_alone(make_page: Make) -> None:
    def build(path: Path) -> Path:
        builder = TraceBuilder(path)
        p = builder.process(devices="[]")
        p.alloc("cpu", 3 * MIB, category="weight")
        p.alloc(
            "cpu", MIB // 2, action="external", memory="host", source="n.py:3 load", label="table"
        )
        p.alloc(
            "cpu", MIB, category="weight", action="external", memory="mapped", resident_bytes=4096
        )
        gone = p.alloc("cpu", 64, action="external", memory="shared")
        p.free(gone)
        return builder.write()

    page = make_page(build)
    assert page.text("#headline h1").startswith("3.00 MiB peak of cpu")
    assert "Beside it, not from torch's allocators: 1.50 MiB" in page.text("#headline")
    page.click("#tab-about")
    listed = page.texts("#panel-about .told:first-of-type tbody tr")
    assert listed[0].startswith("1.00 MiB 4.00 KiB mapped weight")
    assert listed[1].startswith("512.0 KiB not known host")
    assert listed[1].endswith("table n.py:3 load")
    assert len(listed) == 3
    assert page.run("return document.getElementById('tab-segments').hidden")
    assert page.run("return document.getElementById('scope-label').hidden")
    assert page.complaints() == []


def test_several_processes_and_devices(make_page: Make) -> None:
    def build(path: Path) -> Path:
        builder = TraceBuilder(path)
        for rank, held in enumerate((5, 9)):
            p = builder.process(100 + rank, rank=rank)
            p.alloc("cpu", MIB)
            p.alloc(f"cuda:{rank}", held * MIB, module=f"own.{rank}")
        return builder.write()

    page = make_page(build)
    titles = [
        "cuda:1 · process 101 (rank 1) · 9.00 MiB", "cuda:0 · process 100 (rank 0) · 5.00 MiB",
        "cpu · process 100 (rank 0) · 1.00 MiB", "cpu · process 101 (rank 1) · 1.00 MiB",
    ]  # fmt: skip
    assert page.texts("#scope option") == titles
    for place, title in enumerate(titles):
        page.run(
            "const s = document.getElementById('scope'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'))",
            place,
        )
        assert page.text("#headline h1").startswith(title.rsplit(" · ", 1)[1])
        assert len(page.rows()) == 1
    page = make_page(lambda path: path, "--device", "cuda:0")
    assert page.text("#headline h1").startswith("5.00 MiB peak of cuda:0")
    assert "Only cuda:0 (--device)." in page.text("#headline .banner")
    page = make_page(lambda path: path, "--process", "101")
    assert page.texts("#scope option") == ["cuda:1 · 9.00 MiB", "cpu · 1.00 MiB"]
    assert "Only process 101 (rank 1) (--process)." in page.text("#headline .banner")


def test_a_window_has_its_own_peak(make_page: Make, tmp_path: Path) -> None:
    page = make_page(serving_trace, "--window", "0s,60ms")
    assert "in this window" in page.text("#headline h1")
    assert int(page.run("return scope.headline.peak_bytes")) < 96 * MIB
    assert page.run("return scope.end") < 70e6


def test_large_allocations_are_told_by_the_size_that_was_asked_for(make_page: Make) -> None:
    page = make_page(serving_trace, "--large-bytes", str(5 * MIB))
    page.run("report.setCut(4)")  # of no name
    assert page.run("return scope.told.rows.large_bytes") == 5 * MIB
    page.click("#tab-about")
    assert "all of 5.00 MiB (5,242,880 bytes) and more" in page.text("#panel-about")


def test_what_the_terminal_says_is_there(make_page: Make) -> None:
    page = make_page(failing_trace)
    page.press("6")
    assert "the device had to give 150.0 MiB (157,286,400 bytes)" in page.text("#panel-oom")
    page.press("4")
    page.settle()
    assert "Pinned by" in page.text("#panel-segments")
    assert "240.0 MiB reserved in 12 segments: 24.00 MiB in blocks" in page.text("#panel-segments")
    page.press("5")
    assert "peak allocated by batch size" in page.text("#panel-stages")


def test_the_segments_hold_the_blocks(make_page: Make) -> None:
    page = make_page(failing_trace)
    page.press("4")
    segments = page.run(
        "return report.segments.layout.segments.map((s) => [s.bytes, s.free, s.blocks.length])"
    )
    assert segments == [[20 * MIB, 18 * MIB, 1]] * 12


def test_stacked_by_each_column_the_layers_sum_to_the_total(make_page: Make) -> None:
    page = make_page(serving_trace)
    for by in ("category", "module", "operator", "source"):
        total = page.run(
            "report.timeline.setBy(arguments[0]);"
            "return [Array.from(report.timeline.stack.total), Array.from(scope.layerCuts.seq)]",
            by,
        )
        at = page.run("return [Array.from(scope.cuts.allocated), Array.from(scope.cuts.seq)]")
        assert total == at


def test_light_and_dark(make_page: Make) -> None:
    page = make_page(serving_trace)
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = page.run(colour)
    page.press("t")
    assert page.run(colour) != before
    page.press("t")
    assert page.run(colour) == before


def test_it_is_written_to_any_stream(tmp_path: Path) -> None:
    from memtrace.outputs import Selection, find_output

    trace = open_trace(serving_trace(tmp_path / "x.memtrace"))
    stream = io.BytesIO()
    find_output("report").load()(trace, Selection(), stream)
    assert stream.getvalue().startswith(b"<!doctype html>")


def test_a_device_of_which_only_a_failed_request_is_known(make_page: Make) -> None:
    def build(path: Path) -> Path:
        builder = TraceBuilder(path)
        p = builder.process()
        p.alloc("cpu", MIB)
        p.oom("cuda:0", 90 << 30, 1 << 30)
        return builder.write()

    page = make_page(build)
    assert page.text("#headline h1").startswith("0 B peak of cuda:0")
    page.click("#jump-oom")
    assert page.rows() == []
    assert page.complaints() == []


def test_the_longest_bars_by_keys(make_page: Make) -> None:
    page = make_page(serving_trace)
    page.press("3")
    page.settle()
    sizes = page.run("return report.lifetimes.rows.map((row) => scope.rows.bytes[row])")
    assert sizes == sorted(sizes, reverse=True)
    assert "The 19 largest of 19 allocations in view" in page.text("#panel-lifetimes")
    page.run("report.lifetimes.canvas.focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert "h.1.mlp.weight" in page.text("#panel-lifetimes .detail")
    page.search("kv_cache")
    assert "The 6 largest of 6 allocations in view" in page.text("#panel-lifetimes")


def test_what_does_nothing_in_a_window_is_named(make_page: Make) -> None:
    page = make_page(serving_trace, "--window", "0s,30ms")
    assert "Without an event in this window: cpu of process 100." in page.text("#headline .banner")
