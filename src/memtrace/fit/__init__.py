"""Where a program fits, or a changed one: on which GPU, in how much of a machine, at what price."""
