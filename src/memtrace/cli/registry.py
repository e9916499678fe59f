"""Every command: its name, its one line of help, and where its code is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CommandSpec:
    """`attribute` of `module` is the click command."""

    name: str
    summary: str
    module: str
    attribute: str = "command"


COMMANDS = (
    CommandSpec("run", "Run a program and record its memory.", "memtrace.cli.run"),
    CommandSpec("live", "Watch a recording while it runs.", "memtrace.cli.live"),
    CommandSpec("summary", "What ran, its peaks, its losses.", "memtrace.cli.summary"),
    CommandSpec("peak", "Who held every byte at the exact peak.", "memtrace.cli.peak"),
    CommandSpec("at", "Who held every byte at a time.", "memtrace.cli.at"),
    CommandSpec("tree", "Who holds the bytes, as a tree.", "memtrace.cli.tree"),
    CommandSpec("flamegraph", "The same as a page.", "memtrace.cli.flamegraph"),
    CommandSpec("stages", "What each stage held of each device.", "memtrace.cli.stages"),
    CommandSpec("leaks", "What each step leaves behind.", "memtrace.cli.leaks"),
    CommandSpec("fragmentation", "Which blocks keep unused memory.", "memtrace.cli.fragmentation"),
    CommandSpec("oom", "Why an allocation failed.", "memtrace.cli.oom"),
    CommandSpec("replay", "What other settings or GPUs would do.", "memtrace.cli.replay"),
    CommandSpec("fit", "Where it fits, and at what price.", "memtrace.cli.fit"),
    CommandSpec("report", "Write a page of HTML that shows it all.", "memtrace.cli.report"),
    CommandSpec("sweep", "Record a program at several batch sizes.", "memtrace.cli.sweep"),
    CommandSpec("diff", "What changed between two traces.", "memtrace.cli.diff"),
    CommandSpec("export", "Write the trace in another tool's format.", "memtrace.cli.export"),
    CommandSpec("import", "Make a trace of another tool's file.", "memtrace.cli.import_file"),
    CommandSpec("sql", "Ask the trace in SQL.", "memtrace.cli.sql"),
    CommandSpec("mlflow", "Log the trace into a run of MLflow.", "memtrace.cli.mlflow"),
    CommandSpec("attribute", "Work out again who holds what.", "memtrace.cli.attribute"),
    CommandSpec("recover", "Finish the trace of a killed program.", "memtrace.cli.recover"),
    CommandSpec("build-hook", "Compile the hook for this torch.", "memtrace.cli.build_hook"),
)
