"""Torch is noticed whenever and by whomever it is imported, and the import shows nothing of it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from program_runs import main_process, python, recorded

FAKE = """
    {body}
    __version__ = "0.0"
"""


def fake_torch(tmp_path: Path, body: str) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text(textwrap.dedent(body))
    (package / "nn.py").write_text("X = 1\n")


def compare(tmp_path: Path, text: str) -> bytes:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    plain = python(path)
    assert recorded(tmp_path / "t.memtrace", path) == plain
    return plain.err


@pytest.mark.parametrize("error", ["ImportError", "OSError", "KeyboardInterrupt", "SystemExit"])
def test_the_traceback_of_a_failing_import_is_pythons_own(tmp_path: Path, error: str) -> None:
    fake_torch(tmp_path, f"def inner():\n    raise {error}('libcudart.so')\ninner()")
    for text in (
        "import torch",
        "import torch.nn",
        "import importlib; importlib.import_module('torch')",
    ):
        err = compare(tmp_path, text)
        (tmp_path / "t.memtrace").rename(tmp_path / f"{len(text)}.memtrace")
        assert error == "SystemExit" or error.encode() in err


def test_torch_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("syntax error here")
    assert b"SyntaxError" in compare(tmp_path, "import torch")


def test_module_metadata_is_pythons_own(tmp_path: Path) -> None:
    fake_torch(tmp_path, "import sys\nprint('loading', sys.getrecursionlimit())\n__version__ = '1'")
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent("""
        import importlib.util, sys
        print(importlib.util.find_spec("torch").origin, "torch" in sys.modules)
        import torch
        print(torch.__spec__.loader is torch.__loader__, torch.__spec__.origin)
        print(vars(torch.__loader__))
        print(type(torch.__loader__), [type(f).__name__ for f in sys.meta_path])
        importlib.reload(torch)
        del sys.modules["torch"]
        import torch.nn
        print(torch.nn.X)
    """))  # fmt: skip
    plain, traced = python(path), recorded(tmp_path / "t.memtrace", path)
    assert (traced.status, traced.out) == (plain.status, plain.out)
    # A torch that no hook fits is one line, past any --quiet, and harms nothing.
    (line,) = traced.err.decode().splitlines()
    assert line.startswith("memtrace: ")


def test_an_import_that_succeeds_after_one_that_failed(tmp_path: Path) -> None:
    pytest.importorskip("torch", exc_type=ImportError)
    (tmp_path / "bad").mkdir()
    fake_torch(tmp_path / "bad", "raise ImportError('broken')")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path / "bad")!r})
        try:
            import torch
        except ImportError:
            del sys.path[0]
        import torch
        torch.ones(3)
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(code))
    assert recorded(tmp_path / "t.memtrace", path).err == b""
    row = main_process(tmp_path / "t.memtrace")
    assert (row["hook_error"], row["torch_seen"]) == (None, True)
    assert row["events"] > 0
