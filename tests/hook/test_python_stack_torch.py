"""The stack table on torch's own modules: names, identity, and that nothing is changed."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from address_reuse import Addresses

torch = pytest.importorskip("torch")
nn = torch.nn

take_now: Callable[[], int] | None = None  # a module that keeps it could not be pickled


class Probe(nn.Module):
    """Keeps the stack id of its last forward."""

    def forward(self, x: Any) -> Any:
        self.__dict__["stack"] = take_now()
        return x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), Probe())

    def forward(self, x: Any) -> Any:
        return self.layers(x)


@pytest.fixture
def torch_stacks(stack_extension: Any) -> Any:
    global take_now
    stack_extension.start()
    stack_extension.install_modules(nn.Module)
    take_now = stack_extension.take_without_gil
    yield stack_extension
    take_now = None


def probe_of(module: Any) -> Probe:
    return next(part for part in module.modules() if isinstance(part, Probe))


def module_names(stacks: Any, stack: int) -> list[str]:
    return [stacks.module_text(row[3])[0] for row in stacks.frames(stack) if row[3]]


def test_modules_of_a_forward(torch_stacks: Any) -> None:
    net = Net()
    net(torch.ones(1, 4))
    stack = probe_of(net).stack
    assert module_names(torch_stacks, stack) == ["Probe", "Sequential", "Net"]
    files = [row[1] for row in torch_stacks.frames(stack)]
    assert not any(file.endswith("nn/modules/module.py") for file in files)
    (root,) = torch_stacks.take_new_roots()
    assert torch_stacks.module_object(root) is net


def test_agrees_with_torchs_own_stack(torch_stacks: Any) -> None:
    from torch._C._profiler import gather_traceback, symbolize_tracebacks

    gathered = gather_traceback(python=True, script=False, cpp=False)
    stack = torch_stacks.take()
    (theirs,) = symbolize_tracebacks([gathered])
    ours = torch_stacks.frames(stack)
    assert [frame["filename"] for frame in theirs] == [row[1] for row in ours]
    assert [frame["line"] for frame in theirs][1:] == [row[2] for row in ours][1:]


def test_with_hooks(torch_stacks: Any) -> None:
    net = Net()
    net.layers.register_forward_hook(lambda *_: None)
    net.register_forward_pre_hook(lambda *_: None)
    net(torch.ones(1, 4))
    assert module_names(torch_stacks, probe_of(net).stack) == ["Probe", "Sequential", "Net"]
    seen: list[int] = []
    net.register_forward_hook(lambda *_: seen.append(take_now()))
    net(torch.ones(1, 4))
    assert module_names(torch_stacks, seen[0]) == ["Net"]


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "replica": lambda net: net._replicate_for_data_parallel(),
    "init": lambda _: Net(),
}


@pytest.mark.parametrize("way", WAYS)
def test_copies_are_modules_of_their_own(torch_stacks: Any, way: str) -> None:
    net, x = Net(), torch.ones(1, 4)
    roots, addresses = set(), Addresses()
    for _ in addresses.generations(3, reused=1):
        generation = [WAYS[way](net) for _ in range(30)]
        for made in generation:
            addresses.add(made)
            made(x)
            stack = probe_of(made).stack
            assert module_names(torch_stacks, stack) == ["Probe", "Sequential", "Net"]
            roots.add([row[3] for row in torch_stacks.frames(stack) if row[3]][-1])
        del generation, made
    assert len(roots) == addresses.made
    assert set(torch_stacks.take_new_roots()) == roots


def test_graph_module(torch_stacks: Any) -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    seen: list[int] = []
    for _ in range(20):
        again = copy.deepcopy(traced)
        again.register_forward_hook(lambda *_: seen.append(take_now()))
        again(torch.ones(1, 4))
        assert module_names(torch_stacks, seen[-1]) == ["GraphModuleImpl"] or module_names(
            torch_stacks, seen[-1]
        ) == ["GraphModule"]
    assert len({torch_stacks.innermost_module(stack) for stack in seen}) == 20


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_script_modules(torch_stacks: Any) -> None:
    for make in (torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 4))):
        scripted = make(nn.Linear(4, 4))
        parent = nn.Sequential(scripted, Probe())
        parent(torch.ones(1, 4))
        assert module_names(torch_stacks, parent[1].stack) == ["Probe", "Sequential"]
        assert torch_stacks.module_id(scripted) != 0


@pytest.mark.parametrize("compile_whole", [True, False])
def test_compiled_as_without_us(torch_stacks: Any, compile_whole: bool) -> None:
    x = torch.ones(2, 4)

    def run() -> tuple[Any, dict[str, Any]]:
        torch.manual_seed(1)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        compiled = torch.compile(net, backend="eager") if compile_whole else net
        if not compile_whole:
            net.compile(backend="eager")
        results = [compiled(x) for _ in range(5)]
        return results, {key: dict(count) for key, count in torch._dynamo.utils.counters.items()}

    results, counts = run()
    torch_stacks.uninstall()
    plain_results, plain_counts = run()
    assert counts == plain_counts
    assert all(map(torch.equal, results, plain_results))


def test_in_backward(torch_stacks: Any) -> None:
    """CPU backward runs in the calling thread; its Python functions are seen, from any thread."""
    seen: list[int] = []

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            seen.append(take_now())
            return grad * 2

    def work() -> None:
        x = torch.ones(3, requires_grad=True)
        Double.apply(x).sum().backward()

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(seen) == 2
    for stack in seen:
        names = [row[0].rpartition(".")[2] for row in torch_stacks.frames(stack)]
        assert names[0] == "backward"
        assert "work" in names


def test_checkpoint(torch_stacks: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    net = nn.Sequential(Probe(), nn.Linear(4, 4))  # recomputation stops at the last tensor it needs
    out = checkpoint(net, torch.ones(1, 4, requires_grad=True), use_reentrant=False)
    first = probe_of(net).stack
    out.sum().backward()
    again = probe_of(net).stack
    assert first != again
    for stack in (first, again):
        assert module_names(torch_stacks, stack) == ["Probe", "Sequential"]


def test_module_class_is_untouched(torch_stacks: Any) -> None:
    assert inspect.isfunction(nn.Module.__init__)
    assert inspect.isfunction(nn.Module.__setstate__)
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    assert "__init_subclass__" not in vars(nn.Module)
    assert "__new__" not in vars(nn.Module)


def test_thousands_of_modules_are_freed_as_before(torch_stacks: Any) -> None:
    import gc
    import weakref

    gc.collect()
    nets = [Net() for _ in range(200)]
    for net in nets:
        net(torch.ones(1, 4))
    alive = weakref.WeakSet(nets)
    del nets, net
    gc.collect()
    assert len(alive) == 0
