"""Children of all kinds; prints what became of them."""

from __future__ import annotations

import os
import subprocess
import sys

code = "import sys; print('child', sys.argv[1:], sys.path[0] == '', 'sitecustomize' in sys.modules)"


def run(*options: str, **kwargs: object) -> None:
    done = subprocess.run(
        [sys.executable, *options, "-c", code, "a"], capture_output=True, **kwargs
    )
    print(options, done.returncode, done.stdout, done.stderr)


run()
run("-I")
run("-S", "-E")
run(env={"PATH": os.environ["PATH"]})
run(env={**os.environ, "X": "1"})
print(subprocess.run(["echo", "not python"], capture_output=True).stdout)
print(
    os.system("exit 3"),
    os.waitstatus_to_exitcode(os.system(f"{sys.executable} -c 'raise SystemExit(4)'")),
)
pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "raise SystemExit(5)"], os.environ)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
try:
    subprocess.run(["/no/such/program"])
except FileNotFoundError as error:
    print(error)
try:
    subprocess.run([sys.executable, None])
except TypeError:
    import traceback

    traceback.print_exc()
