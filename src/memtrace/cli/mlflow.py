"""memtrace mlflow"""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from memtrace.cli.options import (
    device_option,
    json_option,
    open_argument,
    process_option,
    trace_argument,
)


@click.command("mlflow")
@trace_argument
@click.option("--experiment", metavar="NAME", help="Of a new run; made if there is none.")
@click.option("--run", "run_id", metavar="ID", help="Log into this run instead of a new one.")
@click.option("--tracking-uri", metavar="URI", help="By default MLflow's own: MLFLOW_TRACKING_URI.")
@click.option("--no-report", is_flag=True, help="Leave out the page of `memtrace report`.")
@click.option("--trace", "whole_trace", is_flag=True, help="Log the trace's directory as well.")
@device_option
@process_option()
@json_option
def command(
    trace_path: str | None,
    experiment: str | None,
    run_id: str | None,
    tracking_uri: str | None,
    no_report: bool,
    whole_trace: bool,
    device: str | None,
    process: str | None,
    as_json: bool,
) -> None:
    """Log a trace into a run of MLflow: figures as metrics, facts as parameters, the report."""
    from memtrace.errors import MemtraceError
    from memtrace.frameworks.mlflow import import_mlflow, log_trace, refused_by_mlflow
    from memtrace.report.as_json import write_json

    if experiment is not None and run_id is not None:
        raise MemtraceError("--experiment is of a new run: leave it out, or --run")
    trace = open_argument(trace_path)
    mlflow = import_mlflow()
    with refused_by_mlflow():
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        if experiment is not None:
            mlflow.set_experiment(experiment)
    logged = log_trace(
        trace, run_id, device=device, process=process, report=not no_report,
        whole_trace=whole_trace,
    )  # fmt: skip
    if as_json:
        write_json(asdict(logged), sys.stdout)
    else:
        click.echo(f"run {logged.run_id}: {logged.metrics:,} metrics, at {logged.tracking_uri}")
