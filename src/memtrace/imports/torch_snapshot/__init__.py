"""torch's memory snapshots (`torch.cuda.memory._dump_snapshot`).

A snapshot is a pickle of plain values: the allocator's segments as they are at its end, and for
each device its last events.

    unpickle -> forms -> baseline -> convert
"""
