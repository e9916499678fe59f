"""A recording while it runs, followed from its spool: `memtrace live`.

It takes no lock and writes nothing: the recording and its finaliser do not notice.
"""
