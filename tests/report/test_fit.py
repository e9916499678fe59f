"""The pages of `memtrace fit`: what somebody reads who must order a machine."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from fit.made_up import GIB, server, worker
from memtrace.fit.arithmetic import add_up
from memtrace.fit.catalogue import choose, read_catalogue
from memtrace.fit.judge import judge
from memtrace.fit.verify import verify
from memtrace.fit.workers import find_density
from memtrace.report.arithmetic import arithmetic_page
from memtrace.report.fit import fit_page, price_title, prices_text
from memtrace.report.page import Block, write_page
from memtrace.report.verification import verification_page
from memtrace.report.workers import kubernetes_resources, kubernetes_yaml, workers_page


def plain(blocks: list[Block]) -> str:
    stream = io.StringIO()
    write_page(blocks, stream)
    return stream.getvalue()


def test_gpus(tmp_path: Path) -> None:
    trace = server(tmp_path / "x.memtrace")
    gpus = choose(read_catalogue(), "t4,l4,a100-40")
    text = plain(fit_page(judge(trace, gpus))).replace(str(tmp_path), "").replace("SCRIPT", "...")
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("""\
memtrace: /x.memtrace: where it fits, as recorded
  process 100, cuda:0: needs 16.00 GiB (17,179,869,184 bytes)
  allocated at the peak 16.00 GiB (17,179,869,184 bytes), event 2
  beside it the CUDA context and libraries: 400.0 MiB, as sampled on Simulated H100
  KV cache: 4 tensors x 4 x 64 x 2 bytes = 2.00 KiB a token; at most 2 x 128 tokens

  GPU      Fits     Usable   Headroom    Share    Context       USD/h        x
  t4       no    14.17 GiB  -1.83 GiB  -13.0 %  1,355,008  0.35-0.526  0.8-1.2
  l4       yes   21.64 GiB   5.64 GiB   26.0 %  3,313,152  0.44-0.805  1.0-1.8
  a100-40  yes   38.99 GiB  22.99 GiB   58.9 %  7,861,504   1.29-2.93  2.9-6.7
  t4: no bfloat16 below compute capability 8.0, this is 7.5
  context: tokens that each of 2 sequences may have, all else as it was
  no largest batch: every call of Model has batch size 2, so nothing tells what follows it:
    record a run that calls the model with two of them, or measure: memtrace sweep --batch 2,4 ...
  prices: lowest-highest, seen 2026-03-01 to 2026-11-09; others: --price, --gpus
  x: times the lowest of l4, the cheapest that fits: 0.44 USD (RunPod, community)

Each stage, by what it allocates:
  Stage                 Peak  Fits on
  load (the peak)  16.00 GiB  2 of 3; not t4
  idle              8.00 GiB  all of these
  inference         9.00 GiB  all of these

What holds the peak:
""")
    assert text.endswith("""
Assumed:
  the CUDA context and libraries are as large on every GPU
""")


def test_a_narrow_terminal_has_the_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    found = judge(server(tmp_path / "x.memtrace"), list(read_catalogue().values()))
    stream = Terminal()
    write_page(fit_page(found), stream)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("  a100-80 ")]
    assert "yes" in row
    assert "1.39-3.673" in row


def test_prices_in_several_currencies_say_so(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("gpu,price_per_hour,currency\nt4,0.3,EUR\n")
    gpus = choose(read_catalogue(str(tmp_path / "own.csv")), "t4,l4")
    assert price_title(gpus) == ("Price/h", None)
    assert [prices_text(gpu, None) for gpu in gpus] == ["0.30 EUR", "0.44-0.805 USD"]
    assert price_title(gpus[1:]) == ("USD/h", "USD")


def test_workers(tmp_path: Path) -> None:
    found = find_density(worker(tmp_path / "x.memtrace"), [2 * GIB], workers=3)
    text = plain(workers_page(found)).replace(str(tmp_path), "")
    assert text.startswith("""\
memtrace: /x.memtrace: workers on a machine, as recorded
  one worker (process 100): idle 300.0 MiB, peak 390.0 MiB (408,944,640 bytes)
  of the peak 190.0 MiB are tensors; shared, counted once: 0 bytes
  PSS, which divides what is shared: at most 280.0 MiB sampled
  3 workers: 1.14 GiB (1,226,833,920 bytes) at their peak

   Machine    Usable  Workers  They need  Fits 3
  2.00 GiB  1.80 GiB        4   1.52 GiB  yes

Tensors, by stage:
""")


def test_kubernetes(tmp_path: Path) -> None:
    found = find_density(worker(tmp_path / "x.memtrace"), [], workers=2)
    text = kubernetes_yaml(found, gpus=1, why_gpu="fits 2 of 3").replace(str(tmp_path), "")
    assert (
        text
        == """\
# memtrace fit /x.memtrace: 2 workers
resources:
  requests:
    memory: 600Mi  # idle
  limits:
    memory: 858Mi  # peak + 10 %
    nvidia.com/gpu: 1  # fits 2 of 3
"""
    )
    assert kubernetes_resources(found) == {
        "requests": {"memory": "600Mi"}, "limits": {"memory": "858Mi"},
    }  # fmt: skip


def test_a_request_is_never_above_its_limit(tmp_path: Path) -> None:
    found = find_density(worker(tmp_path / "x.memtrace", shared=GIB), [])
    resources = kubernetes_resources(found)
    assert resources["requests"]["memory"] == "1324Mi"
    assert resources["limits"]["memory"] == "1556Mi"


def test_the_sums_of_well_known_claims() -> None:
    gpus = choose(read_catalogue(None, ["a100-80=2", "a100-80=3", "t4=0.35"]), "t4,a100-80")
    text = plain(arithmetic_page(add_up(7 * 10**9, gpus)))
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("""\
memtrace: 7,000,000,000 parameters
  For         Bytes of a parameter                                                    Sum
  fp32        weights 4                                                 7 B x 4 = 28.0 GB  26.08 GiB
  fp16        weights 2                                                 7 B x 2 = 14.0 GB  13.04 GiB
  int8        weights 1                                                  7 B x 1 = 7.0 GB   6.52 GiB
  int4        weights 0.5                                              7 B x 0.5 = 3.5 GB   3.26 GiB
  fp32, Adam  weights 4 + gradients 4 + Adam 8 = 16                   7 B x 16 = 112.0 GB  104.3 GiB
  fp16, Adam  weights 2 + gradients 2 + fp32 weights 4 + Adam 8 = 16  7 B x 16 = 112.0 GB  104.3 GiB

  GPU       CUDA has  fp32  fp16  int8  int4  fp32, Adam  fp16, Adam      USD/h        x
  t4       14.56 GiB  no    yes   yes   yes   no          no               0.35      1.0
  a100-80  79.15 GiB  yes   yes   yes   yes   no          no          2.00-3.00  5.7-8.6
""")


def test_a_prediction_beside_a_recording(tmp_path: Path) -> None:
    trace = worker(tmp_path / "x.memtrace")
    text = plain(verification_page(verify(trace, trace), top=1)).replace(str(tmp_path), "")
    assert (
        text
        == """\
memtrace: /x.memtrace (cpu), beside /x.memtrace (cpu)
  peak of allocated off by 0 B (+0.0 %); expected exact

  Peak       Predicted       Real  Off by
  allocated  190.0 MiB  190.0 MiB     0 B  +0.0 %

  Category  Predicted       Real  Off by
  weight    100.0 MiB  100.0 MiB     0 B  +0.0 %
  1 other, each less far off

  Operator     Predicted       Real  Off by
  aten::empty  100.0 MiB  100.0 MiB     0 B  +0.0 %
  1 other, each less far off
"""
    )
