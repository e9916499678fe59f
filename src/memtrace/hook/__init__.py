"""Recording torch: finding the native hook, installing it when torch arrives, naming what it sees.

arrival.py   calls back when torch has been imported, whoever imports it
installed.py the hook at work in this process     native.py   its interface
cuda.py      attaching to CUDA, marks, settings, counters, devices
scan.py      names of weights and buffers, memory from outside torch's allocators
cells.py     what a notebook's cells are called
build.py     `memtrace build-hook`                 torch_build.py   what a hook has to match
"""
