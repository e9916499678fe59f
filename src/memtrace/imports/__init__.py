"""Files of other tools as traces: torch's snapshots, Chrome traces, memory_profiler's .dat.

Which kind a file is of is told from its content (formats.py). It is read by a process of its own,
with limits (reader.py): a damaged or hostile file costs an error, never this process. What it holds
becomes the spool of a recording (spool.py), and the ordinary finaliser makes the trace of it: one
path for every rule.

    file -> formats -> reader -> torch_snapshot | chrome_trace | mprof -> spool | finalise

Importing this package is cheap.
"""
