"""Each request a step of the trace: FastAPI and Starlette behind uvicorn, many clients at once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import memtrace
from frameworks.serving import served
from memtrace.frameworks.asgi import MemtraceMiddleware

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve.py"
WIDTH = 256

net = torch.nn.Linear(8, WIDTH)


@contextmanager
def recorded(tmp_path: Path) -> Iterator[Path]:
    with memtrace.record(tmp_path / "served.memtrace"):
        yield tmp_path / "served.memtrace"


def steps(trace: Path) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for row in memtrace.open(trace).steps.to_pylist()}


def requests(trace: Path) -> list[dict[str, Any]]:
    marked = [row for row in steps(trace).values() if row["name"]]
    return sorted(marked, key=lambda row: row["step"])


def names(trace: Path) -> list[str]:
    return [row["name"] for row in requests(trace)]


def answering() -> FastAPI:
    app = FastAPI()
    gathered = asyncio.Event()
    waiting = []

    async def all_of_them(number: int) -> None:
        waiting.append(None)
        if len(waiting) >= number:
            gathered.set()
        await gathered.wait()

    @app.post("/sync/{batch}")
    def sync(batch: int) -> int:
        mine = torch.empty(batch, WIDTH)
        for _ in range(5):
            mine = torch.cat([mine, net(torch.ones(batch, 8))])
        return len(mine)

    @app.post("/async/{batch}")
    async def in_task(batch: int, together: int) -> int:
        mine = torch.empty(batch, WIDTH)
        await all_of_them(together)  # so that all are under way at once
        for _ in range(5):
            await asyncio.sleep(0.001)
            mine = torch.cat([mine, net(torch.ones(batch, 8))])
        return len(mine)

    # Starlette's own base class runs the application in a task of its own.
    async def other(request: Any, go_on: Any) -> Any:
        return await go_on(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=other)
    app.add_middleware(MemtraceMiddleware)
    return app


def test_requests_at_once_are_not_mixed_up(tmp_path: Path) -> None:
    batches = [1, 2, 3, 5, 7, 11, 13, 17]
    paths = [f"/async/{n}?together={len(batches)}" for n in batches]
    paths += [f"/sync/{n}?secret=1" for n in batches]
    with (
        recorded(tmp_path) as trace,
        served(answering()) as address,
        httpx.Client(base_url=f"http://{address}", timeout=60, trust_env=False) as client,
        ThreadPoolExecutor(len(paths)) as pool,
    ):
        answers = list(pool.map(client.post, paths))
    assert [answer.json() for answer in answers] == [6 * n for n in batches] * 2
    found = steps(trace)
    marked = requests(trace)
    assert Counter(row["name"] for row in marked) == {
        "POST /async/{batch}": len(batches), "POST /sync/{batch}": len(batches),
    }  # fmt: skip
    assert {row["kind"] for row in marked} == {"request"}
    assert sorted(row["batch_size"] for row in marked) == sorted(2 * batches)
    for call in (row for row in found.values() if not row["name"]):
        assert found[call["parent_step"]]["batch_size"] == call["batch_size"]
    # Outside the calls: what torch.empty, ones and cat allocate, in tasks and threads.
    sizes: dict[int, list[int]] = {}
    for row in memtrace.open(trace).allocations.to_pylist():
        step = row["step"]
        if step is not None:
            outer = found[step]["parent_step"] or step
            sizes.setdefault(outer, []).append(row["size_bytes"])
    for row in marked:
        n = row["batch_size"]
        expected = [n * WIDTH * 4] + 5 * [n * 8 * 4, n * WIDTH * 4]
        expected += [n * WIDTH * 4 * k for k in range(2, 7)]
        assert sorted(sizes[row["step"]]) == sorted(expected), row


def test_the_request_of_the_peak_is_named(tmp_path: Path) -> None:
    # The demo itself: uvicorn, HTTP, batches 1, 2, 4, 8, the sixth request small again.
    trace = tmp_path / "serve.memtrace"
    arguments = ["--size", "tiny", "--requests", "6", "--device", "cpu"]
    command = [sys.executable, "-m", "memtrace"]
    subprocess.run(
        [*command, "run", "--quiet", "-o", trace, EXAMPLE, *arguments],
        check=True, stdout=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    marked = requests(trace)
    assert [row["name"] for row in marked] == ["POST /generate"] * 6
    assert [row["batch_size"] for row in marked] == [1, 2, 4, 8, 1, 2]
    name = f"POST /generate · input_ids [8, 32] · step {marked[3]['step']}"
    shown = run_text(*command, "peak", trace, "--by", "step")
    assert any(line.startswith(name) for line in shown.splitlines()), shown
    assert f"stage inference · {name}" in shown
    told = json.loads(run_text(*command, "peak", trace, "--by", "step", "--json"))
    assert told["reached_by"]["step"] == name
    assert name in [row["key"] for row in told["groups"]]
    listed = run_text(*command, "stages", trace)
    assert f"in POST /generate, step {marked[3]['step']:,}, batch 8, input_ids 8x32" in listed
    assert "POST /generate" in run_text(*command, "tree", trace, "--by", "step,operator")


def run_text(*command: object) -> str:
    shown = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True, timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return shown.stdout


def test_routes_for_paths(tmp_path: Path) -> None:
    def plain(request: Any) -> PlainTextResponse:
        return PlainTextResponse(request.url.path)

    inner = Starlette(routes=[Route("/{word}/{rest:path}", plain), Route("/", plain)])
    router = APIRouter(prefix="/users/{user}")

    @router.get("/orders/{order}")
    def order(user: int, order: int) -> int:
        return user + order

    app = FastAPI()
    app.include_router(router)
    app.routes.append(Mount("/files/{bucket}", inner))
    app.add_middleware(MemtraceMiddleware)
    with recorded(tmp_path) as trace:
        client = TestClient(app)
        paths = ["/users/7/orders/7?key=SECRET", "/users/8/orders/users", "/files/a/b/c/d",
                 "/files/a/", "/files/files/files/files", "/users/007/orders/1",
                 "/nowhere/SECRET", "/" + "x" * 5000]  # fmt: skip
        for path in paths:
            client.get(path)
        client.delete("/users/7/orders/7")
    assert names(trace) == [
        "GET /users/{user}/orders/{order}", "GET /users/{user}/orders/{order}",
        "GET /files/{bucket}/{word}/{rest}", "GET /files/{bucket}/",
        "GET /files/{bucket}/{word}/{rest}", "GET /users/{user}/orders/{order}",
        "GET /nowhere/SECRET", "GET /" + "x" * 199, "DELETE /users/{user}/orders/{order}",
    ]  # fmt: skip
    assert "key=" not in memtrace.open(trace).steps.column("name").to_pylist()


def test_names_do_not_become_ever_more(tmp_path: Path) -> None:
    app = MemtraceMiddleware(Starlette())
    with recorded(tmp_path) as trace:
        client = TestClient(app)
        for number in range(1010):
            client.get(f"/{number}")
        client.get("/3")
    told = Counter(names(trace))
    assert len(told) == 1001
    assert (told["GET ..."], told["GET /3"]) == (10, 2)


def test_streams_background_tasks_and_errors(tmp_path: Path) -> None:
    app = FastAPI()
    kept = []

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            kept.append(torch.empty(1000))
            yield b"x" * 10

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    @app.get("/later")
    def later(tasks: BackgroundTasks) -> str:
        tasks.add_task(lambda: kept.append(torch.empty(2000)))
        return "soon"

    @app.get("/refused")
    def refused() -> None:
        raise HTTPException(418)

    @app.get("/fails")
    def fails() -> None:
        raise KeyError("a secret")

    app.add_middleware(MemtraceMiddleware)
    with recorded(tmp_path) as trace, TestClient(app) as client:  # with its lifespan
        assert client.get("/stream").content == b"x" * 30
        assert client.get("/later").json() == "soon"
        assert client.get("/refused").status_code == 418
        with pytest.raises(KeyError, match="a secret"):
            client.get("/fails")
    told = {row["name"]: row for row in requests(trace)}
    assert list(told) == ["GET /stream", "GET /later", "GET /refused", "GET /fails"]
    assert [row["error"] for row in told.values()] == [None, None, None, "KeyError"]
    made = Counter(
        (row["size_bytes"], row["step"]) for row in memtrace.open(trace).allocations.to_pylist()
    )
    assert made[4000, told["GET /stream"]["step"]] == 3
    assert made[8000, told["GET /later"]["step"]] == 1


def test_websockets(tmp_path: Path) -> None:
    app = FastAPI()

    @app.websocket("/chat/{room}")
    async def chat(socket: WebSocket, room: str) -> None:
        await socket.accept()
        await socket.send_text(str(net(torch.ones(3, 8)).shape[0]) + room)
        await socket.close()

    app.add_middleware(MemtraceMiddleware)
    with (
        recorded(tmp_path) as trace,
        TestClient(app).websocket_connect("/chat/7?token=SECRET") as socket,
    ):
        assert socket.receive_text() == "37"
    (row,) = requests(trace)
    assert (row["name"], row["batch_size"]) == ("WEBSOCKET /chat/{room}", 3)


@pytest.mark.parametrize("recording", [False, True])
def test_what_is_no_request_or_not_recorded_passes_untouched(
    tmp_path: Path, recording: bool
) -> None:
    calls = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append((scope, receive, send))

    wrapped = MemtraceMiddleware(app)
    scope, receive, send = {"type": "lifespan" if recording else "http"}, object(), object()
    with recorded(tmp_path) if recording else nullcontext():
        asyncio.run(wrapped(scope, receive, send))  # type: ignore[arg-type]
    assert calls == [(scope, receive, send)]
    assert calls[0][0] is scope
    if recording:
        assert names(tmp_path / "served.memtrace") == []
