"""Chrome traces that tell of memory: torch.profiler's with profile_memory=True, and our own.

Such a file is JSON, an object with a list of events that are in no order. Its `[memory]` events
are the allocations and frees of the threads that were profiled, each with torch's own totals after
it; its calls of operators, Python functions and modules lie around them in time.

    json_stream -> events -> totals -> timeline -> convert
"""
