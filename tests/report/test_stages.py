"""The page of `memtrace stages`: what a person reads at night."""

from __future__ import annotations

import io
from pathlib import Path

from memtrace.analyse.ledger import make_ledger
from memtrace.report.page import write_page
from memtrace.report.stages import ledger_page
from memtrace.trace import open_trace
from trace_builder import TraceBuilder

MIB = 1 << 20
GIB = 1 << 30


def page(path: Path, **how: int) -> str:
    stream = io.StringIO()
    write_page(ledger_page(make_ledger(open_trace(path), **how), str(path.name)), stream)
    return stream.getvalue()


def server(path: Path) -> Path:
    builder = TraceBuilder(path)
    p = builder.process()
    p.tick_ns = 10_000_000
    with p.stage("load"):
        p.segment("cuda:0", 40 * MIB)
        p.alloc("cuda:0", 16 * MIB, category="weight", address=0x7F00_0000_0000)
    with p.stage("idle"):
        p.time_ns += p.tick_ns
    for batch in (1, 8):
        with p.stage("request"), p.step(batch_size=batch, input_shapes='{"input_ids": [8, 128]}'):
            block = p.alloc(
                "cuda:0", batch * MIB, category="kv_cache", address=0x7F00_0000_0000 + 17 * MIB
            )
            for metric, value in (("process", 340), ("used", 1024), ("total", 80 * 1024)):
                p.sample("cuda:0", "nvml", metric, value * MIB, reason="period")
            p.free(block)
    return builder.write()


def test_a_server(tmp_path: Path) -> None:
    text = page(server(tmp_path / "x.memtrace"))
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("""\
memtrace: x.memtrace: stages of process 100

cuda:0 (Simulated H100)
  Stage                      Lasted       Peak  At the end   Reserved    Process  Batch
  load                    30.000 ms  16.00 MiB   16.00 MiB  40.00 MiB  340.0 MiB
  idle                    20.000 ms  16.00 MiB   16.00 MiB  40.00 MiB  340.0 MiB
  request (largest of 2)  90.000 ms  24.00 MiB   16.00 MiB  40.00 MiB  340.0 MiB      8

cuda:0: peak allocated by batch size, over idle (16.00 MiB, at the end of idle)
  Batch  Calls       Peak  Over idle  Peak : idle
      1      1  17.00 MiB  +1.00 MiB         1.06
      8      1  24.00 MiB  +8.00 MiB         1.50
""")
    request = text[text.index("cuda:0, request") :]
    assert (
        request
        == """\
cuda:0, request (largest of 2): peak at 200.000 ms
  in call 2 of Model, batch 8, input_ids 8x128
                                  At the peak  At the end
    weight                          16.00 MiB   16.00 MiB
    kv cache                         8.00 MiB
  = allocated                       24.00 MiB   16.00 MiB
  = active                          24.00 MiB   16.00 MiB
    unused, beside blocks in use   +16.00 MiB  +24.00 MiB
  = reserved                        40.00 MiB   40.00 MiB
    CUDA context and libraries     +300.0 MiB  +300.0 MiB
  = this process (NVML)             340.0 MiB   340.0 MiB  sampled peak +10 ms, end -60 ms
    other processes, driver        +684.0 MiB  +684.0 MiB
  = device, used                     1.00 GiB    1.00 GiB  sampled peak +20 ms, end -50 ms
    free                           +79.00 GiB  +79.00 GiB
  = device, all of it               80.00 GiB   80.00 GiB
  largest sampled in the stage: process 340.0 MiB
"""
    )


def test_gaps_have_signs_and_names(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", GIB)
    p.alloc("cpu", 8 * MIB, action="external", memory="mapped", resident_bytes=MIB)
    p.sample("host", "rss", "rss", 200 * MIB)
    text = page(builder.write())
    assert "    tensors until it was sampled            +8.00 MiB\n" in text
    assert "    mapped, not resident                                -7.00 MiB\n" in text
    assert "    never touched, less Python and other   -832.0 MiB  -825.0 MiB\n" in text
    assert "(not from torch: mapped files)" in text
    assert "not sampled: no sampler beside the program" in text


def test_many_stages_and_batches_are_few_lines(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for number in range(40):
        with p.stage(f"request {number}"), p.step(batch_size=number):
            p.free(p.alloc("cpu", 1000 * number))
    text = page(builder.write(), top=5)
    assert "35 other stages with smaller peaks left out (--top)" in text
    assert "20 smaller sizes left out" in text
    assert "request 34" not in text
    assert "request 35" in text


def test_odd_steps_and_names(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("warm up"):
        for shapes in ("no json", "[1]", '{"x": 3, "y": [2, 3]}', None):
            with p.step(batch_size=None, input_shapes=shapes, root_module=None):
                p.alloc("cpu", 100)
    text = page(builder.write())
    assert "  in call 4 of a model\n" in text
    assert "not known" in text
