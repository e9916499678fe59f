"""A real server of a language model: FastAPI + uvicorn + transformers, with its KV cache in use.

    python examples/serve.py                        # serves on 127.0.0.1:8000
    python examples/serve.py --requests 12          # also drives itself over HTTP, then shuts down
    python -m memtrace run examples/serve.py --requests 12

Weights are random (nothing is downloaded), so the texts mean nothing; the memory is real.
"""

from __future__ import annotations

import argparse
import socket
import threading
from dataclasses import dataclass

import httpx
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import GPT2Config, GPT2LMHeadModel

import memtrace
from memtrace.frameworks.asgi import MemtraceMiddleware

IDLE_S = 0.5  # before the first request, as a server has it between requests
SIZES = {
    "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 64, "vocab_size": 512},
    "small": {"n_layer": 6, "n_head": 8, "n_embd": 512, "vocab_size": 8192},
    "base": {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257},
}


class Prompt(BaseModel):
    """A batch of token ids, and how many tokens to add to each row."""

    tokens: list[list[int]]
    new_tokens: int = 16


@dataclass(frozen=True)
class Engine:
    """The model and the one way to use it: greedy decoding with a KV cache."""

    model: GPT2LMHeadModel
    device: torch.device

    @torch.inference_mode()
    def generate(self, tokens: list[list[int]], new_tokens: int) -> list[list[int]]:
        ids = torch.tensor(tokens, device=self.device)
        generated = [ids]
        cache = None
        for _ in range(new_tokens):
            output = self.model(ids, cache, use_cache=True)
            cache = output[1]  # its name depends on the version of transformers
            ids = output.logits[:, -1:].argmax(dim=-1)
            generated.append(ids)
        return torch.cat(generated, dim=1).tolist()


def load_engine(size: str, device: str) -> Engine:
    """Builds the model with random weights on the device."""
    torch.manual_seed(0)
    config = GPT2Config(n_positions=512, bos_token_id=None, eos_token_id=None, **SIZES[size])
    model = GPT2LMHeadModel(config).eval().to(device)
    return Engine(model, torch.device(device))


def build_app(engine: Engine) -> FastAPI:
    """The HTTP face: POST /generate. Runs in a worker thread, one request at a time."""
    app = FastAPI()
    app.add_middleware(MemtraceMiddleware)  # each request is a step of the trace
    lock = threading.Lock()

    @app.post("/generate")
    def generate(prompt: Prompt) -> dict[str, list[list[int]]]:
        with lock:
            return {"tokens": engine.generate(prompt.tokens, prompt.new_tokens)}

    return app


def drive(url: str, requests: int, vocabulary: int) -> None:
    """Sends growing batches: 1, 2, 4, 8, then again, as a load test would."""
    generator = torch.Generator().manual_seed(1)
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for number in range(requests):
            batch = 2 ** (number % 4)
            tokens = torch.randint(0, vocabulary, (batch, 32), generator=generator).tolist()
            answer = client.post("/generate", json={"tokens": tokens, "new_tokens": 16})
            answer.raise_for_status()
            print(f"request {number + 1}/{requests}: batch {batch}, {answer.elapsed}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--requests", type=int, default=0, metavar="N", help="send N requests, then shut down"
    )
    options = parser.parse_args()

    with memtrace.stage("load"):
        engine = load_engine(options.size, options.device)
    port = free_port() if options.requests else options.port
    config = uvicorn.Config(build_app(engine), port=port, log_level="warning")
    server = uvicorn.Server(config)
    if not options.requests:
        server.run()
        return

    serving = threading.Thread(target=server.run, name="server")
    with memtrace.stage("idle"):
        serving.start()
        while not server.started:
            if not serving.is_alive():
                raise SystemExit("the server did not start")
            threading.Event().wait(0.05)
        threading.Event().wait(IDLE_S)
    try:
        with memtrace.stage("inference"):
            drive(f"http://127.0.0.1:{port}", options.requests, SIZES[options.size]["vocab_size"])
    finally:
        server.should_exit = True
        serving.join()


if __name__ == "__main__":
    main()
