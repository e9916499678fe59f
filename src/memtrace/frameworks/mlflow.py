"""A trace in MLflow: its figures as metrics, its facts as parameters and tags, its report."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memtrace.errors import MemtraceError, readable
from memtrace.frameworks.run_figures import Figure, run_figures
from memtrace.outputs import Selection
from memtrace.trace import Process, Trace, open_trace

#: What MLflow takes at once, and of a text. Older versions take less of a value.
_METRICS_AT_ONCE = 1000
_MOST_LETTERS = {"param": 500, "tag": 5000}
_VERSIONS = ("memtrace_version", "torch_version", "cuda_version", "python_version")


@dataclass(frozen=True)
class LoggedRun:
    """Where a trace was logged. `metrics`: how many values."""

    run_id: str
    experiment_id: str
    tracking_uri: str
    metrics: int


def log_trace(
    trace: Trace | str | os.PathLike[str],
    run_id: str | None = None,
    *,
    device: str | None = None,
    process: str | int | None = None,
    report: bool = True,
    whole_trace: bool = False,
    prefix: str = "memtrace",
) -> LoggedRun:
    """Logs a finished trace into a run of MLflow.

    Args:
        trace: its path, or it opened.
        run_id: the run; by default the active one, else a new one of the active experiment.
        device: only this one; every one that the process used when left out.
        process: key or pid; by default the process with the largest peak.
        report: log the page of `memtrace report` too, as PREFIX/report.html.
        whole_trace: log the trace's directory too, below PREFIX.
        prefix: what every name begins with: of a second trace in one run, another.

    Raises:
        MemtraceError: MLflow is not installed or refuses it, or the trace cannot be read.
    """
    mlflow = import_mlflow()
    opened = trace if isinstance(trace, Trace) else open_trace(trace)
    chosen, figures = run_figures(opened, device=device, process=process)
    with refused_by_mlflow(), _run(mlflow, run_id, opened) as run:
        client = mlflow.MlflowClient()
        _log_figures(client, run, chosen, figures, prefix)
        if report:
            _log_report(client, run, opened, device, prefix)
        if whole_trace:
            name = opened.path.resolve().name
            client.log_artifacts(run.info.run_id, str(opened.path), f"{prefix}/{name}")
        return LoggedRun(
            run.info.run_id, run.info.experiment_id, mlflow.get_tracking_uri(), len(figures)
        )


def import_mlflow() -> Any:
    """The package.

    Raises:
        MemtraceError: it is not installed.
    """
    try:
        import mlflow
    except ImportError as error:
        raise MemtraceError("MLflow is not installed: pip install 'memtrace[mlflow]'") from error
    return mlflow


@contextmanager
def refused_by_mlflow() -> Iterator[None]:
    """What MLflow refuses in here is one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise MemtraceError(f"MLflow: {' '.join(str(error).split())}") from error


@contextmanager
def _run(mlflow: Any, run_id: str | None, trace: Trace) -> Iterator[Any]:
    active = mlflow.active_run()
    if run_id is not None:
        yield mlflow.MlflowClient().get_run(run_id)
    elif active is not None:
        yield active
    else:
        name = readable(trace.path.resolve().name.removesuffix(".memtrace"))
        with mlflow.start_run(run_name=name) as run:
            yield run


def _log_figures(
    client: Any, run: Any, process: Process, figures: list[Figure], prefix: str
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    began_ns = process.row["clock_origin_unix_ns"] or 0
    metrics = [
        Metric(
            f"{prefix}/{figure.name}",
            figure.value,
            (began_ns + figure.time_ns) // 1_000_000,
            figure.step,
        )
        for figure in figures
    ]
    facts, told = _facts(process)
    params = [Param(f"{prefix}.{key}", _cut(value, "param")) for key, value in facts.items()]
    tags = [RunTag(f"{prefix}.{key}", _cut(value, "tag")) for key, value in told.items()]
    client.log_batch(run.info.run_id, params=params, tags=tags)
    for first in range(0, len(metrics), _METRICS_AT_ONCE):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + _METRICS_AT_ONCE])


def _facts(process: Process) -> tuple[dict[str, str], dict[str, str]]:
    """What runs are compared by, and what is said of this one."""
    row = process.row
    facts = {name: str(row[name]) for name in _VERSIONS if row.get(name)}
    devices = [f"{device} {name}".strip() for device, name in process.device_names.items()]
    if devices:
        facts["devices"] = ", ".join(devices)
    told = {"process": str(process), "host": row.get("host"), "ended": row.get("end_reason")}
    if process.argv is not None:
        told["command"] = shlex.join(process.argv)
    return facts, {name: str(value) for name, value in told.items() if value}


def _cut(text: str, kind: str) -> str:
    most = _MOST_LETTERS[kind]
    return text if len(text) <= most else text[: most - 1] + "…"


def _log_report(client: Any, run: Any, trace: Trace, device: str | None, prefix: str) -> None:
    from memtrace.page.report import write_report

    with tempfile.TemporaryDirectory(prefix="memtrace-") as folder:
        page = Path(folder) / "report.html"
        with page.open("wb") as out:
            write_report(trace, Selection(device), out)
        client.log_artifact(run.info.run_id, str(page), prefix)
