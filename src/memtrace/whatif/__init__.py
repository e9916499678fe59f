"""Other requests than those recorded: what the program would ask for if it were changed.

Each what-if is one file with one function, and one entry of `registry.py`.
"""
