"""memory_profiler's .dat (`mprof run`): RSS of a process and its children, calls of functions.

dat_file -> convert
"""
