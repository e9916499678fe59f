"""The commands: output, exit status, and one line for every user's error."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.main import group, main
from memtrace.cli.options import TimeType
from memtrace.cli.registry import COMMANDS
from memtrace.schema import ATTRIBUTION_VERSION
from memtrace.trace import Spools, Trace, open_trace
from trace_builder import TraceBuilder, failing_trace, serving_trace

MAIN = "import sys; from memtrace.cli import main; sys.exit(main())"


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return serving_trace(tmp_path / "serve.memtrace")


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    return failing_trace(tmp_path / "train.memtrace")


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_has_help_and_is_listed() -> None:
    listed = invoke("--help")
    for spec in COMMANDS:
        assert f"  {spec.name} " in listed
        assert spec.summary in listed
        if spec.name != "run":
            assert "Usage: " in invoke(spec.name, "--help")


def test_every_command_file_is_registered() -> None:
    folder = Path(sys.modules["memtrace.cli.registry"].__file__ or "").parent
    files = {f"memtrace.cli.{file.stem}" for file in folder.glob("*.py")}
    shared = {
        f"memtrace.cli.{name}"
        for name in ("__init__", "destination", "main", "options", "registry", "what_if_options")
    }
    assert files - shared == {spec.module for spec in COMMANDS}


def test_categories_are_on_the_page(serving: Path) -> None:
    for command in ("peak", "summary"):
        shown = invoke(command, serving)
        assert "  weight 96.00 MiB · activation 21.00 MiB · kv_cache 6.00 MiB · other 5" in shown
        # What nothing is known of has its share.
        assert re.search(r" · other 5\S* KiB \(0\.0 %\)\n", shown)
    assert "  weight 96.00 MiB · " in invoke("at", serving, "--time", "130ms")


def test_summary(serving: Path) -> None:
    assert "peak allocated 123.0 MiB" in invoke("summary", serving)
    assert json.loads(invoke("summary", serving, "--json"))["events"] == 37
    assert "cuda:0 (" not in invoke("summary", serving, "--device", "cpu")


def test_stages(serving: Path) -> None:
    text = invoke("stages", serving)
    assert "cuda:0, serve: peak at" in text
    assert "cuda:0" not in invoke("stages", serving, "--device", "cpu")
    document = json.loads(invoke("stages", serving, "--json", "--top", "1"))
    assert [device["device"] for device in document["devices"]] == ["cuda:0", "cpu"]
    assert [len(device["stages"]) for device in document["devices"]] == [1, 1]
    assert document["devices"][0]["left_out"] == 1


@pytest.mark.parametrize("of", ["allocated", "active", "reserved", "requested"])
@pytest.mark.parametrize("by", ["operator", "module", "source", "stack", "label", "category"])
def test_peak(serving: Path, of: str, by: str) -> None:
    assert f"Peak of {of} memory on cuda:0" in invoke("peak", serving, "--of", of, "--by", by)
    document = json.loads(invoke("peak", serving, "--of", of, "--by", by, "--json"))
    assert document["by"] == by
    assert sum(group["bytes"] for group in document["groups"]) == document["total_bytes"]


def test_top_device_process(serving: Path) -> None:
    groups = json.loads(invoke("peak", serving, "--by", "label", "--top", 2, "--json"))["groups"]
    assert [group["kind"] for group in groups] == ["group", "group", "other", "unattributed"]
    assert "memory on cpu: 3.00 MiB" in invoke("peak", serving, "--device", "cpu", "--process", 100)


def test_at(serving: Path) -> None:
    assert "at 100.000 ms: 96.00 MiB" in invoke("at", serving, "--time", "0.1s")
    document = json.loads(invoke("at", serving, "--time", "100ms", "--json"))
    assert (document["at_ns"], document["total_bytes"]) == (100_000_000, 96 * 2**20)


def test_at_the_beginning(serving: Path) -> None:
    page = invoke("at", serving, "--time", "0")
    assert "Allocated memory on cuda:0 at 0 ns: 0 bytes\n" in page
    assert "  before the first event of process 100 on cuda:0\n" in page
    document = json.loads(invoke("at", serving, "--time", "0", "--json"))
    assert (document["at_ns"], document["seq"], document["time_ns"]) == (0, None, None)
    assert (document["total_bytes"], document["groups"]) == (0, [])


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1.5s", 1_500_000_000), ("1500ms", 1_500_000_000), ("123456ns", 123_456), ("2", 2 * 10**9),
        (".5", 500_000_000), ("20us", 20_000), ("0.123456789", 123_456_789), (" 1 s ", 10**9),
        ("1.9ns", 1),
    ],
)  # fmt: skip
def test_times(text: str, time_ns: int) -> None:
    assert TimeType()(text) == time_ns


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("memtrace: ")
    assert err.count("\n") == 1
    return err


def test_errors_are_one_line(
    serving: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builder = TraceBuilder(tmp_path / "damaged.memtrace")
    process = builder.process()
    for size in (100, 200):
        process.free(process.alloc("cpu", size))
    for row in process.rows["allocations"]:
        row["free_seq"] = 0
    with process.stage("found", kind="auto"):
        process.alloc("cpu", 300)
    damaged = builder.write()
    for arguments, line in (
        (["peak", tmp_path / "no"], "no such trace"),
        (["report", damaged, "-o", tmp_path / "x.html"], "the trace is damaged"),
        (
            ["peak", serving, "--device", "cuda:7"],
            "no memory of cuda:7 in this trace; it has cuda:0",
        ),
        (["peak", serving, "--process", "9"], "no process 9 in this trace; it has 100"),
        (["peak", serving, "--by", "colour"], "'colour' is not one of 'operator'"),
        (["peak", serving, "--top", "0"], "--top"),
        (["at", serving], "--time"),
        (["at", serving, "--time", "soon"], "'soon' is not a time"),
        (["at", serving, "--time", "-1"], "--time"),
        (["at", serving, "--time", "1h"], "is not a time"),
        (["at", serving, "--time", "99s"], "not within the recording"),
        (["at", serving, "--time", "9" * 4301], "is not a time"),
        (["at", serving, "--time", "9" * 12], "is not a time"),
        (["tree", serving, "--time", "9" * 4301], "is not a time"),
        (["fragmentation", serving, "--at", "9" * 4301], "is not a time"),
        (["fragmentation", serving, "--at", "99s"], "not within the recording"),
        (["leaks", damaged, "--stage", "found"], "'found' of process 100 is not marked"),
        (["summary", serving, "--device", "tpu"], "no memory of tpu"),
        (["export", serving], "--to"),
        (["export", serving, "--to", "perfetto", "--window", "1"], "write two times"),
        (["export", serving, "--to", "perfetto", "--window", "2,1"], "ends before it begins"),
        (["export", serving, "--to", "perfetto", "--device", "x"], "no memory of x"),
        (["export", serving, "--to", "perfetto", "--window", "0," + "9" * 4301], "is not a time"),
        (["export", serving, "--to", "chrome", "--window", "9s,10s"], "no event lies in --window"),
        (["recover", tmp_path / "no"], "no such trace"),
        (["nonsense"], "No such command 'nonsense'"),
    ):
        assert line in refused(capfd, *arguments)


def test_an_empty_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(torch_version=None)
    path = builder.write()
    for arguments in (
        ["peak", path],
        ["at", path, "--time", "0"],
        ["export", path, "--to", "perfetto"],
    ):
        assert "the program never imported torch" in refused(capfd, *arguments)
    assert "the program never imported torch" in invoke("summary", path)


def test_leaks(failing: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "cuda:0: grows by 2.00 MiB per step" in invoke("leaks", failing, "--by", "module")
    (device,) = json.loads(invoke("leaks", failing, "--json"))["devices"]
    assert sum(site["kept_bytes"] for site in device["sites"]) == device["kept_bytes"]
    assert "has no stage 'x'" in refused(capfd, "leaks", failing, "--stage", "x")


def test_leaks_without_steps(serving: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "has no steps" in refused(capfd, "leaks", serving)
    assert "too few steps to tell" in invoke("leaks", serving, "--stage", "serve")


def test_fragmentation(failing: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "at the peak of reserved memory" in invoke("fragmentation", failing)
    assert "out of memory, 133.000 ms" in invoke("fragmentation", failing, "--oom", 1)
    document = json.loads(invoke("fragmentation", failing, "--at", "100ms", "--json"))
    assert sum(pin["keeps_bytes"] for pin in document["pins"]) == document["pinned_bytes"]
    assert "no out-of-memory 3" in refused(capfd, "fragmentation", failing, "--oom", "3")
    assert "give one of them" in refused(
        capfd, "fragmentation", failing, "--oom", "1", "--at", "1s"
    )


def test_oom(failing: Path, serving: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "Out of memory on cuda:0 (2 of 2): 150.0 MiB" in invoke("oom", failing)
    document = json.loads(invoke("oom", failing, "--number", 1, "--json"))
    assert [oom["asked_bytes"] for oom in document["ooms"]] == [300 * 2**20, 150 * 2**20]
    assert document["post_mortem"]["number"] == 1
    assert "no allocation failed" in invoke("oom", serving)
    assert "2 allocations failed" in refused(capfd, "oom", failing, "--number", "3")


@pytest.mark.parametrize("command", ["leaks", "fragmentation", "oom"])
def test_stacks_are_frames_not_numbers(failing: Path, command: str) -> None:
    assert "model.py:88 forward < train.py:30 main" in invoke(command, failing, "--by", "stack")
    document = json.loads(invoke(command, failing, "--by", "stack", "--json"))
    (frames,) = (document.get("post_mortem") or document)["stacks"].values()
    assert [frame["line"] for frame in frames] == [88, 30]


@pytest.mark.parametrize("command", ["peak", "stages", "leaks", "fragmentation", "oom"])
def test_lost_records_make_every_answer_a_bound(tmp_path: Path, command: str) -> None:
    path = failing_trace(tmp_path / "x.memtrace", lost_total=7)
    assert "7 records lost while recording: figures are bounds" in invoke(command, path)
    document = json.loads(invoke(command, path, "--json"))
    assert (document.get("post_mortem") or document)["lost_records"] == 7


def test_the_newest_trace_of_the_directory_is_the_default(
    serving: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    old = serving_trace(tmp_path / "old.memtrace")
    os.utime(old, (1, 1))
    monkeypatch.chdir(tmp_path)
    assert main(["peak"]) == 0
    assert capfd.readouterr().err == "memtrace: serve.memtrace\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert "no trace given, and no *.memtrace in this directory" in refused(capfd, "peak")


def test_export(serving: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.pf"
    export = ["export", serving, "--to", "perfetto", "-o", out]
    assert f"{out}: " in invoke(*export, "--window", "0,1s")
    size = out.stat().st_size
    assert f"{out} exists" in refused(capfd, *export)
    assert out.stat().st_size == size > 500
    invoke(*export, "--force")
    assert "no such file or directory" in refused(capfd, *export[:-1], tmp_path / "no" / "x")


def test_what_an_export_leaves_out_is_told(
    serving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.export.perfetto.MOST_FLOWS", 4)
    monkeypatch.setattr("memtrace.export.perfetto.MOST_PAIRS", 3)
    words = ["export", str(serving), "--to", "perfetto", "-o", str(tmp_path / "x.pf")]
    result = CliRunner().invoke(group, words)
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    notes = result.stderr.splitlines()
    assert notes[0].startswith("flows: the 3 largest of 7 allocations lead to their frees")
    assert notes[1].endswith("give --window A,B for a part")
    assert (tmp_path / "x.pf").exists()


def test_export_to_standard_output(serving: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", MAIN, "export", "--to", "perfetto", "-o"]
    subprocess.run([*words, "x.pf", serving], cwd=tmp_path, check=True, capture_output=True)
    piped = subprocess.run([*words, "-", serving], cwd=tmp_path, check=True, capture_output=True)
    assert piped.stdout == (tmp_path / "x.pf").read_bytes()
    assert piped.stderr == b""
    assert not (tmp_path / "-").exists()


def test_an_export_is_nothing_for_a_terminal(serving: Path, tmp_path: Path) -> None:
    primary, secondary = os.openpty()
    command = [sys.executable, "-c", MAIN, "export", "--to", "perfetto", "-o", "-", str(serving)]
    try:
        done = subprocess.run(
            command, cwd=tmp_path, check=False, stdout=secondary, stderr=subprocess.PIPE
        )
    finally:
        os.close(primary)
        os.close(secondary)
    assert done.returncode == 1
    assert done.stderr.startswith(b"memtrace: not on a terminal: send it to a file")
    assert done.stderr.count(b"\n") == 1


def test_recover_of_a_finished_trace(serving: Path) -> None:
    assert "nothing to recover" in invoke("recover", serving)


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    """Stands in for a module that has tests of its own."""
    module = types.ModuleType(name)
    vars(module).update(functions)
    package, _, attribute = name.rpartition(".")
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(importlib.import_module(package), attribute, module, raising=False)


def test_run_hands_its_words_on_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    stub(monkeypatch, "memtrace.run", main=lambda given: words.extend(given) or 7)
    given = ["-o", "x", "train.py", "--help", "-m", "--", "--json"]
    assert main(["run", *given]) == 7
    assert words == given


def test_recover_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for key in ("a-1-x", "a-2-x"):
        (tmp_path / "spool" / f"process={key}").mkdir(parents=True)

    def recover(trace_dir: Path, *, progress: bool, force: bool) -> types.SimpleNamespace:
        assert (progress, force) == (True, False)
        return types.SimpleNamespace(
            keys=("a-1-x",), running=("a-2-x",), refused=("bad",), unsure=()
        )

    stub(monkeypatch, "memtrace.finalise", recover=recover)
    assert main(["recover", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == (f"{tmp_path}: 1 recovered, 1 still running\n", "memtrace: bad\n")


def test_attribute(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for pid in (1, 2):
        process = builder.process(pid, attribution_version=1)
        process.name(process.alloc("cpu", 1024, category=None), "w", kind="weight")
    path = builder.write()
    assert "no category" in invoke("peak", path, "--by", "category")
    assert (
        invoke("attribute", path)
        == f"{path}: 2 processes attributed, version {ATTRIBUTION_VERSION}\n"
    )
    assert "weight" in invoke("peak", path, "--by", "category")


def test_attribute_waits_for_the_end_of_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    serving = open_trace(serving_trace(tmp_path / "serve.memtrace"))
    for spools, told in (
        (
            Spools((serving.path,), running=("a-2-x",)),
            "is still being recorded (1 process running)",
        ),
        (Spools((serving.path, tmp_path)), "is not finished: python -m memtrace recover "),
    ):
        trace = Trace(serving.path, spools)
        monkeypatch.setattr("memtrace.trace.open_trace", lambda _, trace=trace: trace)
        assert main(["attribute", str(serving.path)]) == 1
        assert capfd.readouterr().err.startswith(f"memtrace: {serving.path} {told}")


def test_build_hook_prints_what_it_built(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, "memtrace.hook.build", build_hook=lambda: Path("/cache/_hook.so"))
    assert main(["build-hook"]) == 0
    assert capfd.readouterr().out == "/cache/_hook.so\n"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("memtrace 0.")


def process(
    *arguments: object, shell: str = "", **options: object
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_the_process_exits_with_the_status(serving: Path, tmp_path: Path) -> None:
    good = process("peak", serving)
    assert (good.returncode, good.stderr) == (0, "")
    assert "\x1b" not in good.stdout
    bad = process("peak", tmp_path / "no")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == f"memtrace: {tmp_path / 'no'}: no such trace\n"


@pytest.mark.parametrize("lines", [0, 1])
def test_a_reader_that_leaves_early_is_no_error(serving: Path, lines: int) -> None:
    command = [sys.executable, "-c", MAIN, "peak", str(serving), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        for _ in range(lines):
            child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_one_line(serving: Path) -> None:
    with open("/dev/full", "w") as full:
        shown = subprocess.run(
            [sys.executable, "-c", MAIN, "peak", str(serving)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert shown.returncode == 1
    assert shown.stderr == "memtrace: cannot write the output: no space left on device\n"


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(serving: Path, tmp_path: Path, streams: str) -> None:
    words = ["export", "--to", "csv", str(serving), "-o", str(tmp_path / "x.csv")]
    for arguments in (["peak", str(serving)], words):
        command = shlex.join([sys.executable, "-c", MAIN, *arguments])
        shown = subprocess.run(
            ["sh", "-c", f"{command} {streams}"], capture_output=True, text=True, check=False
        )
        assert (shown.returncode, shown.stderr) == (0, "")
    assert (tmp_path / "x.csv").read_text().startswith('"process"')


def test_other_processes_of_the_device_are_named(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for pid in range(1, 7):
        builder.process(pid).alloc("cpu", 1024 * pid)
    path = builder.write()
    told = "  other processes (--process PID shows one): "
    peak = "5 (peak 5.00 KiB), 4 (peak 4.00 KiB), 3 (peak 3.00 KiB), 2 (peak 2.00 KiB) and 1 more\n"
    assert told + peak in invoke("peak", path)
    assert f"{told}5, 4, 3, 2 and 1 more\n" in invoke("at", path, "--time", "1us")
    assert f"{told}6, 5, 4, 3 and 1 more\n" in invoke("at", path, "--time", "0", "--process", "1")
