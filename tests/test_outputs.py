"""Every output of the registry: it says the same peak as all others, and goes where it is told."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from memtrace.cli.main import group, main
from memtrace.cli.registry import COMMANDS
from memtrace.outputs import OUTPUTS, OutputSpec
from perfetto_reader import Parsed
from pprof_reader import pprof_profile
from trace_builder import TraceBuilder

MIB = 1 << 20
EACH_OUTPUT = pytest.mark.parametrize("spec", OUTPUTS, ids=lambda spec: spec.name)
DEVICES = ("cuda:0", "cuda:1", "cpu")


def document(page: bytes) -> dict[str, Any]:
    """The data of a page."""
    found = re.search(rb'id="memtrace-document">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def of_report(data: bytes, device: str) -> int:
    devices = {each["device"]: each["headline"] for each in document(data)["devices"]}
    return int(devices[device]["peak_bytes"])


def of_flamegraph(data: bytes, device: str) -> int:
    tree = document(data)["tree"]
    assert tree["words"][tree["name"][0]] == device
    return int(tree["bytes"][0])


def of_perfetto(data: bytes, device: str) -> int:
    return max(value for _, value in Parsed(data).counters[f"{device} allocated"])


def of_snapshot(data: bytes, device: str) -> int:
    Path("snapshot.pickle").write_bytes(data)
    assert main(["import", "snapshot.pickle", "-o", "back.memtrace", "--force"]) == 0
    return int(told("peak", "back.memtrace", device)["total_bytes"])


def of_chrome(data: bytes, device: str) -> int:
    counters = [e for e in json.loads(data)["traceEvents"] if e["name"] == f"{device} allocated"]
    return max(event["args"]["bytes"] for event in counters)


def of_speedscope(data: bytes, device: str) -> int:
    (profile,) = json.loads(data)["profiles"]
    assert profile["name"].startswith(device)
    return sum(profile["weights"])


def of_pprof(data: bytes, device: str) -> int:
    profile = pprof_profile()
    profile.ParseFromString(data)
    assert device in profile.string_table
    return sum(sample.value[1] for sample in profile.sample)


def of_collapsed(data: bytes, device: str) -> int:
    lines = data.decode().splitlines()
    assert all(line.startswith(f"{device};") for line in lines)
    return sum(int(line.rsplit(" ", 1)[1]) for line in lines)


def of_csv(data: bytes, device: str) -> int:
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    changes = []
    for row in rows:
        assert row["device"] == device
        changes.append((int(row["alloc_seq"]), int(row["block_bytes"])))
        if row["free_seq"]:
            changes.append((int(row["free_seq"]), -int(row["block_bytes"])))
    return max(accumulate(change for _, change in sorted(changes)))


PEAK_OF: dict[str, Callable[[bytes, str], int]] = {
    "perfetto": of_perfetto,
    "flamegraph": of_flamegraph,
    "report": of_report,
    "snapshot": of_snapshot,
    "chrome": of_chrome,
    "speedscope": of_speedscope,
    "pprof": of_pprof,
    "collapsed": of_collapsed,
    "csv": of_csv,
}


def told(command: str, trace: object, device: str, *more: object) -> dict[str, Any]:
    """What a command says in JSON."""
    words = [command, str(trace), *map(str, more), "--device", device, "--json"]
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0, result.output
    read: dict[str, Any] = json.loads(result.stdout)
    return read


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Peaks that are neither at the end nor round; sizes that differ from their blocks."""
    monkeypatch.chdir(tmp_path)
    builder = TraceBuilder(tmp_path / "run.memtrace")
    p = builder.process()
    for place, device in enumerate(DEVICES, 1):
        base = place << 40
        if device != "cpu":
            p.segment(device, 32 * MIB, address=base, small=False, expandable=False, stream=0)
        address = iter(range(base, base + 32 * MIB, 8 * MIB))
        kept = p.alloc(device, place * MIB + 12, operator="aten::empty", address=next(address))
        p.free(p.alloc(device, 3 * MIB + 7, source="m.py:3 f", address=next(address)))
        p.alloc(device, 5000, module="m", address=next(address))
        p.free(kept)
    return builder.write()


@EACH_OUTPUT
@pytest.mark.parametrize("device", DEVICES)
def test_every_output_says_the_same_peak(trace: Path, spec: OutputSpec, device: str) -> None:
    peak = told("peak", trace, device)["total_bytes"]
    assert told("tree", trace, device)["total_bytes"] == peak
    (compared,) = told("diff", trace, device, trace)["devices"]
    assert (compared["peak"]["a_bytes"], compared["peak"]["b_bytes"]) == (peak, peak)
    assert main(["export", str(trace), "--to", spec.name, "-o", "made", "--device", device]) == 0
    assert PEAK_OF[spec.name](Path("made").read_bytes(), device) == peak


def written_by() -> list[list[str]]:
    """Every way to write an output: by its own command, and by `export`."""
    own = [spec.name for spec in OUTPUTS if spec.name in {each.name for each in COMMANDS}]
    return [[name] for name in own] + [["export", "--to", spec.name] for spec in OUTPUTS]


@pytest.mark.parametrize("words", written_by(), ids=" ".join)
def test_it_goes_where_it_is_told(
    trace: Path, words: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    suffix = next(spec.suffix for spec in OUTPUTS if spec.name == words[-1])
    assert main([*words, str(trace)]) == 0
    by_default = Path(f"run{suffix}")
    assert capfdbinary.readouterr().out.startswith(f"{by_default}: ".encode())
    # The same to a pipe, and nothing else with it.
    assert main([*words, str(trace), "-o", "-"]) == 0
    assert capfdbinary.readouterr().out == by_default.read_bytes()
    assert not Path("-").exists()
    # What is there stays, and what fails or is interrupted leaves nothing.
    before = by_default.read_bytes()
    assert main([*words, str(trace)]) == 1
    assert main([*words, str(trace), "--force", "--device", "cuda:7"]) == 1
    assert by_default.read_bytes() == before
    assert {path.name for path in Path().iterdir()} == {"run.memtrace", by_default.name}


@EACH_OUTPUT
def test_an_interrupted_export_leaves_nothing(
    trace: Path, spec: OutputSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_trace: object, _selection: object, out: Any) -> None:
        out.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{spec.module}.{spec.attribute}", interrupted)
    assert main(["export", str(trace), "--to", spec.name, "-o", "made"]) != 0
    assert [path.name for path in Path().iterdir()] == ["run.memtrace"]


def test_the_registry() -> None:
    assert sorted(PEAK_OF) == sorted(spec.name for spec in OUTPUTS)
    assert len({spec.suffix for spec in OUTPUTS}) == len(OUTPUTS)
    for spec in OUTPUTS:
        assert callable(spec.load())
        assert spec.suffix.startswith(".")
