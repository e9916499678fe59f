"""torch's memory snapshots (`torch.cuda.memory._dump_snapshot`) as traces.

A snapshot is a pickle of plain values: the allocator's segments as they are at its end, and for
each device its last events. It is read by a process of its own, with limits (reader.py): a damaged
or hostile file costs an error, never this process. What it holds becomes the spool of a recording
(spool.py), and the ordinary finaliser makes the trace of it: one path for every rule.

    unpickle -> forms -> baseline -> spool | finalise

Importing this package is cheap.
"""
