"""Every page of docs/ is followed, word for word: what it shows is what is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import simcuda
from doc_pages import DOCS, Page, Reader, pages, read_page, reader_environment, same_lines
from memtrace.cli.registry import COMMANDS
from program_runs import plain_environment


def named(page: Page) -> str:
    return str(page.path.relative_to(DOCS))


@pytest.mark.parametrize("page", [page for page in pages() if page.gpu is None], ids=named)
def test_what_a_page_shows_is_what_is_printed(page: Page, tmp_path: Path) -> None:
    follow(page, tmp_path, plain_environment())


@pytest.mark.cuda_sim
@pytest.mark.parametrize("page", [page for page in pages() if page.gpu is not None], ids=named)
def test_what_a_page_for_gpus_shows_is_what_is_printed(page: Page, tmp_path: Path) -> None:
    assert page.gpu is not None
    machine = simcuda.Machine(memory_mb=page.gpu[1] * 1024)
    follow(page, tmp_path, {**plain_environment(), **simcuda.environment(machine)})


def follow(page: Page, tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    differences = Reader(folder, reader_environment(tmp_path / "bin", environment)).follow(page)
    assert not differences, "\n\n".join(differences)


def test_pages_link_to_what_exists() -> None:
    for page in DOCS.rglob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    others = [named(Page(path, ())) for path in DOCS.rglob("*.md") if path.name != "README.md"]
    assert [name for name in others if f"({name})" not in index] == []


def test_every_command_is_told_of() -> None:
    names = [spec.name for spec in COMMANDS]
    told = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    assert [name for name in names if not re.search(rf"memtrace {name}\b", told)] == []


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["peak 1.00 MiB at 2 s"], ["peak 1.05 MiB at 900 ms"], True),
        (["peak 1.00 MiB"], ["peak 1.20 MiB"], False),
        (["-1.00 MiB"], ["+1.00 MiB"], False),
        (["peak 1.00 MiB"], ["peak  1,030 KiB", ""], True),
        (["a", "..."], ["a", "b", "c"], True),
        (["a", "...", "c"], ["a", "c"], True),
        (["a", "...", "c"], ["a", "c", "d"], False),
        (["a"], ["a", "b"], False),
        (["train.py:3 step"], ["train.py:14 step"], True),
        (["train.py:3 step"], ["train.py:3 other"], False),
        (["held by a ..."], ["held by a and b"], True),
        ([], [], True),
    ],
)
def test_what_counts_as_the_same(shown: list[str], printed: list[str], same: bool) -> None:
    assert same_lines(shown, printed) is same


def test_what_the_system_counts_may_be_any_size() -> None:
    assert same_lines(["RSS 1.00 MiB"], ["RSS 3.00 GiB"], sampled=True)
    assert not same_lines(["RSS 1.00 MiB"], ["PSS 1.00 MiB"], sampled=True)


def test_a_page_that_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python a.py\nprint('1 MiB')\n```\n"
        "```console\n$ python a.py\n2 MiB\n$ false\n$ cd nowhere\n$ echo $?\n1\n```\n"
        "```diff a.py\n-print('3 MiB')\n+print('2 MiB')\n```\n"
    )
    (tmp_path / "here").mkdir()
    environment = reader_environment(tmp_path / "bin", plain_environment())
    differences = Reader(tmp_path / "here", environment).follow(read_page(page))
    assert [text.splitlines()[0] for text in differences] == [
        "$ python a.py", "$ false", "a.py has this not once:",
    ]  # fmt: skip
