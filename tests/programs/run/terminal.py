"""What a program sees of its terminal."""

from __future__ import annotations

import os
import sys

print(
    [os.isatty(fd) for fd in range(3)], os.tcgetpgrp(0) == os.getpgrp(), os.getpgrp() == os.getpid()
)
print(os.get_terminal_size(1), sys.stdout.line_buffering)
print("read:", input("prompt> "))
