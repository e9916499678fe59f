"""The flame graph in a browser: what it shows, finds and tells is what the tree holds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from memtrace.analyse.memory_tree import MemoryTree, make_tree
from memtrace.analyse.tree_nodes import Node
from memtrace.page.flamegraph import MOST_NODES, packed, write_tree_page
from memtrace.trace import open_trace
from trace_builder import TraceBuilder, serving_trace

MIB = 2**20
ROW = 22
MARKUP = '</script><img src=x onerror="window.ran=1"><b>"&\u2028'

Show = Callable[..., None]


@pytest.fixture
def show(browser: WebDriver, tmp_path: Path) -> Show:
    """Opens the page of a tree; in the end nothing may have been said to the console."""

    def opened(tree: MemoryTree, **how: Any) -> None:
        page = tmp_path / "page.html"
        with page.open("wb") as out:
            write_tree_page(tree, out, **how)
        browser.get_log("browser")
        browser.get(page.as_uri())
        assert browser.get_log("browser") == []

    return opened


@pytest.fixture
def serving(tmp_path: Path) -> MemoryTree:
    return make_tree(open_trace(serving_trace(tmp_path / "x.memtrace")))


def shown(browser: WebDriver) -> list[list[dict[str, Any]]]:
    rows: list[list[dict[str, Any]]] = browser.execute_script("return memtraceIcicle.shown()")
    return rows


def names(browser: WebDriver) -> list[list[str]]:
    return [[span["name"] for span in row] for row in shown(browser)]


def box(browser: WebDriver) -> Any:
    return browser.find_element(By.CSS_SELECTOR, ".icicle")


def over(browser: WebDriver, name: str) -> ActionChains:
    """The pointer over the first span of this name."""
    row, span = next(
        (row, span) for row, spans in enumerate(shown(browser)) for span in spans
        if span["name"] == name
    )  # fmt: skip
    place = box(browser).rect
    x = span["x"] + span["width"] / 2 - place["width"] / 2
    y = row * ROW + ROW / 2 - place["height"] / 2
    return ActionChains(browser).move_to_element_with_offset(box(browser), int(x), int(y))


def text(browser: WebDriver, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def rows_of(root: Node) -> list[list[str]]:
    """Names by level, from left to right."""
    rows, level = [], [root]
    while level:
        rows.append([node.name for node in level])
        level = [child for node in level for child in node.children]
    return rows


def test_every_node_lies_below_its_parent(
    show: Show, browser: WebDriver, serving: MemoryTree
) -> None:
    show(serving)
    wide = [row for row in rows_of(serving.root) if row]
    assert names(browser)[:2] == wide[:2]
    rows = shown(browser)
    width = rows[0][0]["width"]
    for row in rows:
        for span in row:
            assert span["width"] == pytest.approx(width * span["bytes"] / serving.total_bytes)
        assert [span["x"] for span in row] == sorted(span["x"] for span in row)
    assert text(browser, "#title") == (
        "Allocated memory on cuda:0 at its peak: 123.0 MiB (128,979,968 bytes)"
    )
    assert "19 live blocks, by module → operator → source" in text(browser, "#context")


def test_what_a_hover_tells(show: Show, browser: WebDriver, serving: MemoryTree) -> None:
    show(serving)
    over(browser, "h").perform()
    tip = text(browser, ".tooltip").split("\n")
    assert tip == ["h", "27.00 MiB (28,311,552 bytes) · 12 blocks", "22.0 % of all"]


def test_zoom_by_mouse_and_back_by_keys(
    show: Show, browser: WebDriver, serving: MemoryTree
) -> None:
    show(serving)
    over(browser, "h").click().perform()
    rows = shown(browser)
    assert [span["name"] for span in rows[1]] == ["h"]
    assert rows[1][0]["width"] == rows[0][0]["width"]
    assert len(rows[2]) == 6
    assert text(browser, "#path") == "cuda:0 → h"
    assert text(browser, "#chosen").startswith("27.00 MiB (28,311,552 bytes), 12 blocks, 22.0 %: h")
    over(browser, "5").perform()
    assert "25.9 % of h" in text(browser, ".tooltip")
    box(browser).send_keys(Keys.BACKSPACE)
    assert len(names(browser)[1]) == 2
    assert text(browser, "#path") == "cuda:0"


def test_keys_reach_every_node(show: Show, browser: WebDriver, serving: MemoryTree) -> None:
    show(serving)
    keys = ActionChains(browser)
    keys.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT).perform()
    assert text(browser, "#chosen").endswith(": 4")
    assert text(browser, ".tooltip").split("\n")[0] == "4"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert text(browser, "#path") == "cuda:0 → h → 4"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert len(names(browser)[1]) == 2
    ActionChains(browser).send_keys("/").perform()
    assert browser.switch_to.active_element.get_attribute("id") == "search"


def test_a_search_counts_each_byte_once(
    show: Show, browser: WebDriver, serving: MemoryTree
) -> None:
    show(serving)
    search = browser.find_element(By.ID, "search")
    search.send_keys("ADDMM")
    assert text(browser, "#found") == "17.1 %: 21.00 MiB (22,020,096 bytes), 6 blocks"
    search.clear()
    search.send_keys("mlp")  # and below it addmm, and the line of it: the same bytes
    assert "21.00 MiB" in text(browser, "#found")
    search.clear()
    search.send_keys("nowhere")
    assert text(browser, "#found") == "nothing of that name"
    search.send_keys(Keys.ESCAPE)
    assert text(browser, "#found") == ""


def test_inverted(show: Show, browser: WebDriver, serving: MemoryTree) -> None:
    show(serving)
    ActionChains(browser).send_keys("i").perform()
    rows = names(browser)
    assert rows[1] == ["load.py:12 load", "model.py:120 forward", "cache.py:33 update"]
    assert rows[2] == ["aten::to", "aten::addmm", "aten::cat"]
    # What led to it, merged where it has the same name: of six modules one row of six.
    assert rows[3][0] == "(outside any module)"
    assert sum(span["bytes"] for span in shown(browser)[1]) == serving.total_bytes - 5120
    browser.find_element(By.ID, "inverted").click()
    assert names(browser)[1] == ["(outside any module)", "h"]
    show(serving, inverted=True)
    assert names(browser)[1][0] == "load.py:12 load"


def test_names_are_shown_and_never_run(show: Show, browser: WebDriver, tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cuda:0", 512, operator=MARKUP, source=MARKUP, module="<i>m</i>")
    show(make_tree(open_trace(builder.write())))
    assert names(browser) == [["cuda:0"], ["<i>m</i>"], [MARKUP], [MARKUP]]
    over(browser, MARKUP).click().perform()
    assert '<img src=x onerror="window.ran=1">' in text(browser, ".tooltip")
    assert browser.find_elements(By.CSS_SELECTOR, "#path img, #chosen img, .tooltip img") == []
    assert browser.execute_script("return window.ran === undefined")
    assert browser.get_log("browser") == []


def test_light_and_dark(show: Show, browser: WebDriver, serving: MemoryTree) -> None:
    show(serving)
    seen = set()
    for _ in range(2):
        browser.find_element(By.ID, "theme").click()
        pixel = "return memtraceIcicle.shown() && document.querySelector('canvas').getContext('2d')"
        seen.add(str(browser.execute_script(f"{pixel}.getImageData(40, 30, 1, 1).data.join()")))
    assert len(seen) == 2


def chain(depth: int, width: int) -> Node:
    """Many deep stacks."""
    root: list[Node] = []
    for number in range(width):
        node = Node("operator", "aten::mm", 1000 + number, 1)
        for level in range(depth):
            node = Node("code", f"f{level}.py:{number} g", 1000 + number, 1, (node,))
        root.append(node)
    root.sort(key=lambda node: -node.total_bytes)
    return Node("root", "cuda:0", sum(n.total_bytes for n in root), width, tuple(root))


def test_fifty_thousand_nodes_do_not_stall(
    show: Show, browser: WebDriver, serving: MemoryTree
) -> None:
    from dataclasses import replace

    root = chain(189, MOST_NODES // 190)
    show(replace(serving, root=root))
    timed = "const begun = performance.now(); {}; return performance.now() - begun;"
    for action in (
        "memtraceIcicle.shown()",
        "memtraceIcicle.search('f1')",
        "memtraceIcicle.setInverted(true); memtraceIcicle.shown()",
        "memtraceIcicle.setInverted(false); memtraceIcicle.shown()",
    ):
        assert browser.execute_script(timed.format(action)) < 500
    rows = shown(browser)
    assert len(rows) == 191  # as deep as it goes, and the panel scrolls
    browser.execute_script("document.querySelector('.icicle').scrollTop = 1e9")
    WebDriverWait(browser, 5).until(
        lambda found: found.execute_script("return document.querySelector('.icicle').scrollTop > 0")
    )


def test_packing_holds_the_whole_tree(serving: MemoryTree) -> None:
    columns = packed(serving.root)
    assert columns["parent"][0] == 0
    children: dict[int, int] = {}
    for row in range(1, len(columns["name"])):
        parent = row - columns["parent"][row]
        assert parent < row
        children[parent] = children.get(parent, 0) + columns["bytes"][row]
    assert children[0] == columns["bytes"][0] == serving.total_bytes


def test_the_output_of_that_name_is_the_page(serving: MemoryTree, tmp_path: Path) -> None:
    from memtrace.outputs import Selection, find_output

    trace = open_trace(tmp_path / "x.memtrace")
    written, same = io.BytesIO(), io.BytesIO()
    find_output("flamegraph").load()(trace, Selection(device="cuda:0"), written)
    write_tree_page(serving, same)
    assert written.getvalue() == same.getvalue()


def test_what_is_too_narrow_is_one_grey_piece(
    show: Show, browser: WebDriver, serving: MemoryTree
) -> None:
    from dataclasses import replace

    small = tuple(Node("operator", f"n{number}", 1, 1) for number in range(5000))
    root = Node("root", "cpu", 10_000, 5001, (Node("operator", "large", 5000, 1), *small))
    show(replace(serving, root=root))
    assert names(browser) == [["cpu"], ["large"]]
    drawn = "document.querySelector('canvas').getContext('2d')"
    pixel = f"return [...{drawn}.getImageData({{}}, 30, 1, 1).data]"
    width = shown(browser)[0][0]["width"]
    red, green, blue, _ = browser.execute_script(pixel.format(int(width * 0.9)))
    assert red == green == blue < 255  # grey, and not the panel's white
    ActionChains(browser).move_to_element_with_offset(
        box(browser), int(width * 0.4), int(ROW * 1.5 - box(browser).rect["height"] / 2)
    ).click().perform()
    assert text(browser, "#path") == "cpu"
    assert browser.get_log("browser") == []
