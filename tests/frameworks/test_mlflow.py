"""MLflow with a store of its own: what was logged, read back, is what the trace says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memtrace
from memtrace.analyse.stage_list import steps_of
from memtrace.analyse.windows import END, read_windows
from memtrace.cli.main import main
from memtrace.frameworks import run_figures as figures_module
from memtrace.frameworks.mlflow import log_trace
from memtrace.frameworks.run_figures import in_a_name, run_figures
from trace_builder import TraceBuilder, serving_trace

pytest.importorskip("mlflow", exc_type=ImportError)
# MLflow's own, of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.* loader strategy is deprecated")
MIB = 2**20
PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "mlflow.md"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The store's client, and MLflow's own default while the tests run."""
    import mlflow

    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("tests")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return serving_trace(tmp_path / "server.memtrace")


def metrics_of(store: Any, run_id: str) -> dict[str, int]:
    found = store.get_run(run_id).data.metrics
    assert all(value == int(value) for value in found.values())
    return {name: int(value) for name, value in found.items()}


def expected(path: Path) -> dict[str, int]:
    """What the trace says, asked as a user asks it."""
    trace = memtrace.open(path)
    found = {"memtrace/lost_records": 0}
    (ledgers,) = [trace.stages_ledger()]
    for device in ledgers.devices:
        name = device.device.replace(":", "_")
        of = f"memtrace/{name}"
        peak = trace.peak(device.device, by="category")
        found[f"{of}/peak_allocated_bytes"] = peak.total_bytes
        for row in peak.breakdown.rows:
            found[f"{of}/at_peak/{row.key}_bytes"] = row.total_bytes
        line = "tensors" if name == "cpu" else "allocated"
        for stage in device.stages:
            for what, instant in (("peak", stage.peak), ("end", stage.end)):
                size = instant.size_bytes(line)
                assert size is not None
                found[f"{of}/stage/{stage.stage.name}/{what}_bytes"] = size
        if device.idle_bytes is not None:
            found[f"{of}/idle_bytes"] = device.idle_bytes
        if name != "cpu":
            reserved = trace.peak(device.device, of="reserved").total_bytes
            found[f"{of}/peak_reserved_bytes"] = reserved
    return found


def test_figures_are_the_traces_to_the_byte(store: Any, trace: Path) -> None:
    logged = log_trace(trace)
    found = metrics_of(store, logged.run_id)
    assert found == expected(trace)
    assert logged.metrics == len(found)
    assert found["memtrace/cuda_0/stage/load/peak_bytes"] == 96 * MIB
    peak = found["memtrace/cuda_0/peak_allocated_bytes"]
    parts = [size for name, size in found.items() if name.startswith("memtrace/cuda_0/at_peak/")]
    assert sum(parts) == peak > 96 * MIB
    run = store.get_run(logged.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "server"
    metric = store.get_metric_history(logged.run_id, "memtrace/cuda_0/peak_allocated_bytes")[0]
    began_ns = memtrace.open(trace).process_list[0].row["clock_origin_unix_ns"]
    time_ns = memtrace.open(trace).peak("cuda:0").time_ns
    assert metric.timestamp == (began_ns + time_ns) // 1_000_000


def test_facts(store: Any, trace: Path) -> None:
    run = store.get_run(log_trace(trace, report=False).run_id)
    assert run.data.params == {
        "memtrace.memtrace_version": "0.1.0",
        "memtrace.torch_version": "2.13.0",
        "memtrace.python_version": "3.11.2",
        "memtrace.devices": "cuda:0 Simulated H100",
    }
    told = {k: v for k, v in run.data.tags.items() if k.startswith("memtrace.")}
    assert told == {
        "memtrace.process": "process 100",
        "memtrace.host": "box",
        "memtrace.ended": "exit",
        "memtrace.command": "serve.py --requests 3",
    }
    assert store.list_artifacts(run.info.run_id) == []


def test_long_facts_are_cut(store: Any, tmp_path: Path) -> None:
    path = serving_trace(
        tmp_path / "x.memtrace",
        argv=json.dumps(["x.py", "a" * 20_000]),
        devices=json.dumps([{"device": "cuda:0", "name": "b" * 9_000}]),
    )
    run = store.get_run(log_trace(path, report=False).run_id)
    assert len(run.data.tags["memtrace.command"]) == 5000
    assert run.data.params["memtrace.devices"].endswith("bbb…")


def test_the_report_and_the_trace(store: Any, trace: Path, tmp_path: Path) -> None:
    logged = log_trace(trace, whole_trace=True)
    names = {item.path for item in store.list_artifacts(logged.run_id, "memtrace")}
    assert names == {"memtrace/report.html", "memtrace/server.memtrace"}
    page = Path(store.download_artifacts(logged.run_id, "memtrace/report.html", str(tmp_path)))
    assert '"trace":"server"' in page.read_text()
    copied = store.download_artifacts(logged.run_id, "memtrace/server.memtrace", str(tmp_path / ""))
    opened, original = memtrace.open(copied), memtrace.open(trace)
    assert opened.peak("cuda:0").total_bytes == original.peak("cuda:0").total_bytes


def test_a_run_of_the_users(store: Any, trace: Path, tmp_path: Path) -> None:
    import mlflow

    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        logged = log_trace(memtrace.open(trace), device="cpu", report=False)
        assert logged.run_id == run.info.run_id
    metrics = metrics_of_floats(store, run.info.run_id)
    assert metrics["loss"] == 0.5
    assert not any("cuda" in name for name in metrics)
    # A second trace in the same run, and its own names.
    other = serving_trace(tmp_path / "other.memtrace", torch_version="2.0")
    assert log_trace(other, run.info.run_id, prefix="eval", report=False).run_id == run.info.run_id
    metrics = metrics_of_floats(store, run.info.run_id)
    assert metrics["eval/cpu/peak_allocated_bytes"] == metrics["memtrace/cpu/peak_allocated_bytes"]
    # The same again changes nothing; another program's facts under the same names are refused.
    log_trace(trace, run.info.run_id, report=False)
    with pytest.raises(memtrace.MemtraceError, match=r"^MLflow: .*torch_version"):
        log_trace(other, run.info.run_id, report=False)


def metrics_of_floats(store: Any, run_id: str) -> dict[str, float]:
    found: dict[str, float] = store.get_run(run_id).data.metrics
    return found


def stepping_trace(path: Path, steps: int) -> Path:
    builder = TraceBuilder(path)
    p = builder.process()
    p.alloc("cpu", 100, category="weight")
    for number in range(steps):
        p.short_step()
        inside = p.alloc("cpu", 10 + number % 7, category="activation")
        after = p.alloc("cpu", 1000 * (number % 3), category="gradient")
        p.free(inside)
        p.free(after)
    return builder.write(rows_per_group=1000)


def test_a_curve_of_steps_in_few_calls(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    path = stepping_trace(tmp_path / "x.memtrace", 1500)
    sizes: list[int] = []
    log_batch = mlflow.MlflowClient.log_batch

    def counted(client: Any, run_id: str, metrics: Any = (), **more: Any) -> None:
        sizes.append(len(metrics))
        log_batch(client, run_id, metrics=metrics, **more)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    logged = log_trace(path, report=False)
    history = store.get_metric_history(logged.run_id, "memtrace/cpu/step_peak_bytes")
    shown = {metric.step: int(metric.value) for metric in history}
    assert shown == {n: 100 + 10 + n % 7 + 1000 * (n % 3) for n in range(1500)}
    assert len(sizes) == 3
    assert max(sizes) == 1000


def test_more_steps_than_points_keep_their_peaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = memtrace.open(stepping_trace(tmp_path / "x.memtrace", 100))
    monkeypatch.setattr(figures_module, "MOST_STEPS", 30)
    process, figures = run_figures(trace)
    shown = [(f.step, f.value) for f in figures if f.name == "cpu/step_peak_bytes"]
    steps = steps_of(trace, process)
    windows = read_windows(trace, process.key, ["cpu"], np.append(steps.start_seq, END))["cpu"]
    peaks = windows.peaks(steps.start_seq, np.append(steps.start_seq[1:], END)).tolist()
    groups = [list(enumerate(peaks))[first : first + 4] for first in range(0, 100, 4)]
    assert shown == [max(group, key=lambda item: (item[1], -item[0])) for group in groups]
    assert max(value for _, value in shown) == max(peaks) == trace.peak("cpu").total_bytes


def test_every_name_is_documented(trace: Path, tmp_path: Path) -> None:
    told = re.findall(r"^\| `memtrace/(.+?)` \|", PAGE.read_text(), re.MULTILINE)
    patterns = [re.sub("DEVICE|STAGE|CATEGORY", "[^/]+", name) for name in told]
    steps = stepping_trace(tmp_path / "steps.memtrace", 2)
    names = [f.name for path in (trace, steps) for f in run_figures(memtrace.open(path))[1]]
    assert [n for n in names if sum(bool(re.fullmatch(p, n)) for p in patterns) != 1] == []
    assert [p for p in patterns if not any(re.fullmatch(p, name) for name in names)] == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cuda:0", "cuda_0"), ("a/b", "a_b"), ("..", "_"), ("", "_"), (" x. ", "x"),
        ("étape 1", "_tape 1"), ("y" * 300, "y" * 100),
    ],
)  # fmt: skip
def test_names_that_mlflow_takes(store: Any, text: str, name: str) -> None:
    assert in_a_name(text) == name
    run = store.create_run(store.get_experiment_by_name("tests").experiment_id)
    store.log_metric(run.info.run_id, f"memtrace/{name}/stage/{name}/peak_bytes", 1)


def test_stages_whose_names_become_the_same(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for name, size in (("a:b", 10), ("a/b", 20)):
        with p.stage(name):
            p.alloc("cpu", size)
    _, figures = run_figures(memtrace.open(builder.write()))
    peaks = {f.name: f.value for f in figures if f.name.endswith("b/peak_bytes") or "b_2" in f.name}
    assert peaks["cpu/stage/a_b_2/peak_bytes"] == 30


# ---- memtrace mlflow ----------------------------------------------------------------------------


def test_the_command(
    store: Any, trace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import mlflow

    uri = mlflow.get_tracking_uri()
    words = ["mlflow", str(trace), "--tracking-uri", uri, "--json"]
    assert main([*words, "--experiment", "tests", "--trace"]) == 0
    logged = json.loads(capsys.readouterr().out)
    assert logged["tracking_uri"] == uri
    assert metrics_of(store, logged["run_id"]) == expected(trace)
    assert len(store.list_artifacts(logged["run_id"], "memtrace")) == 2
    run = store.create_run(logged["experiment_id"]).info.run_id
    assert main(["mlflow", str(trace), "--run", run, "--no-report", "--device", "cuda:0"]) == 0
    assert capsys.readouterr().out.startswith(f"run {run}: ")
    assert "memtrace/cpu/peak_allocated_bytes" not in metrics_of(store, run)
    assert store.list_artifacts(run) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--run", "nowhere"], "MLflow: Run with id=nowhere not found"),
        (["--run", "a", "--experiment", "b"], "--experiment is of a new run"),
        (["--device", "cuda:7"], "no memory of cuda:7 in this trace"),
        (["--process", "5"], "no process 5"),
        (["--tracking-uri", "nothing://x"], "MLflow: "),
    ],
)
def test_what_is_refused_is_one_line(
    store: Any, trace: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    import mlflow

    uri = mlflow.get_tracking_uri()
    assert main(["mlflow", str(trace), *options]) == 1
    mlflow.set_tracking_uri(uri)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_mlflow_the_line_names_the_extra(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["mlflow", str(trace)]) == 1
    assert "pip install 'memtrace[mlflow]'" in capsys.readouterr().err
