"""From recorded facts to meaning: whose each byte is, and in which stage of the program.

Works on the Parquet rows of a process alone, so a trace can be attributed again when the rules have
improved. The finaliser does it before it puts a trace in place, `memtrace attribute` at any time.

    facts        what names, steps, marks and operators say of a process's allocations
    categories   the rules
    stages       load, idle, inference, training
    rows         the datasets, attributed
    in_place     the same for a finished trace, with nothing lost if it is interrupted
"""
