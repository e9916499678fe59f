"""The page of `memtrace oom`, and the short forms in the summary and at the end of a run."""

from __future__ import annotations

import io
import json
from pathlib import Path

from memtrace.analyse.failures import list_ooms
from memtrace.analyse.oom import post_mortem
from memtrace.analyse.summary import summarise
from memtrace.report.at_end import end_page
from memtrace.report.oom import no_oom_page, oom_page
from memtrace.report.page import Block, write_page
from memtrace.report.summary import summary_page
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder, failing_trace


def plain(blocks: list[Block]) -> list[str]:
    out = io.StringIO()
    write_page(blocks, out)
    return out.getvalue().splitlines()


def page(trace: Trace, number: int | None = None) -> list[str]:
    found = post_mortem(trace, number=number)
    assert found is not None
    return plain(oom_page(found, list_ooms(trace)))


def test_the_last_one(tmp_path: Path) -> None:
    lines = page(open_trace(failing_trace(tmp_path / "x.memtrace")))
    for line in (
        "Out of memory on cuda:0 (2 of 2): 150.0 MiB (157,286,400 bytes) asked for",
        "  asked for by aten::mm (of aten::linear) in h.3.mlp (model.py:88 forward)",
        "      model.py:88 forward",
        "  reserved but unusable 216.0 MiB (226,492,416 bytes), of it",
        "    216.0 MiB in pieces that are too small, the largest 18.00 MiB (18,874,368 bytes)",
        "    12 blocks (24.00 MiB) of train.py:42 main (aten::mean · Net) keep 216.0 MiB",
        "  yes     50.00 MiB more free on the device",
        "  no      expandable_segments:True, with all blocks as they lie: 0 B in whole free pages",
        "  no      without the 2.00 MiB allocated since the last step began",
        "  yes     without other (24.00 MiB)",
        "2 failed requests (--number N tells of one):",
    ):
        assert line in lines
    (then,) = (line for line in lines if line.startswith("  then "))
    assert then[7:].split(" · ") == [
        "allocated 24.00 MiB", "reserved 240.0 MiB", "free on the device 100.0 MiB of 400.0 MiB",
        "not torch's 60.00 MiB",
    ]  # fmt: skip
    (short,) = (line for line in lines if line.startswith("  the device had to give "))
    assert short.endswith(" 150.0 MiB (157,286,400 bytes): 50.00 MiB (52,428,800 bytes) short")


def test_one_that_was_caught(tmp_path: Path) -> None:
    lines = page(open_trace(failing_trace(tmp_path / "x.memtrace")), 1)
    assert lines[1].endswith("; the program went on")


def test_the_cpu(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 4096)
    process.oom("cpu", 2**40, 2**30)
    process.oom("cpu", 2**20, 2**30)
    trace = open_trace(builder.write())
    assert "  1023 GiB (1,098,437,885,952 bytes) too little" in page(trace, 1)
    enough = "\n".join(page(trace, 2))
    assert "the host had 1.00 GiB (1,073,741,824 bytes) available" in enough
    assert "ulimit -v" in enough
    assert "asked for by an allocation outside any operator" in enough


def test_a_limit_and_what_is_not_known(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    conf = json.dumps({"conf": "per_process_memory_fraction:0.5"})
    process = builder.process(allocator_settings=conf)
    process.alloc("cuda:0", 512)
    process.oom("cuda:0", 50 * 2**30, 79 * 2**30)
    text = "\n".join(page(open_trace(builder.write())))
    assert "this process may reserve 40.00 GiB" in text
    assert "  yes     a limit of this process that is 10.00 GiB higher" in text


def test_none() -> None:
    assert plain(no_oom_page()) == ["no allocation failed"]


def test_short_forms(tmp_path: Path) -> None:
    summary = summarise(open_trace(failing_trace(tmp_path / "x.memtrace")))
    for lines in (plain(summary_page(summary)), plain(end_page(summary))):
        at = lines.index("  cuda:0 out of memory 2 times, the last at 266.000 ms:")
        asked, held = lines[at + 1 : at + 3]
        by = "by aten::mm (of aten::linear) in h.3.mlp (model.py:88 forward)"
        assert asked == f"    150.0 MiB asked for {by}"
        assert held.startswith("    24.00 MiB live, 216.0 MiB reserved but unusable; memtrace oom ")
    hints = [line for line in plain(summary_page(summary)) if line.startswith("hint")]
    assert hints[-1] == (
        "hint (estimate): 12 blocks (24.00 MiB) of train.py:42 main (aten::mean · Net) keep "
        "216.0 MiB of it (memtrace fragmentation)"
    )


def test_a_program_that_never_failed_says_nothing_of_it(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cuda:0", 512)
    assert "out of memory" not in "\n".join(plain(end_page(summarise(open_trace(builder.write())))))
