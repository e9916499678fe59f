"""Calls of models are steps; their inputs, outputs and caches get names, by identity."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from called_models import MODELS, PRELUDE, classes, named, read, run, steps, told

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load

# ---- steps ------------------------------------------------------------------------------------


def test_a_call_is_a_step(tmp_path: Path) -> None:
    found = run(tmp_path, """
        net(torch.ones(3, 8))
        with torch.no_grad():
            net(x=torch.ones(5, 8), scale=torch.tensor(2.0))
        with torch.inference_mode():
            net.__call__(torch.ones(8))
    """)  # fmt: skip
    assert steps(found) == [
        ("Net", 3, {"x": [3, 8]}, None),
        ("Net", 5, {"x": [5, 8], "scale": []}, None),
        ("Net", 8, {"x": [8]}, None),
    ]
    rows = sorted(found["steps"], key=lambda row: row["step"])
    assert [row["grad_enabled"] for row in rows] == [True, False, False]
    assert {row["thread_id"] for row in rows} == {1}
    assert all(row["start_time_ns"] <= row["end_time_ns"] for row in rows)
    for row in rows:  # exactly what was allocated between the two is the step's
        inside = [
            event["allocation_id"]
            for event in found["events"]
            if event["action"] == "alloc" and row["start_seq"] <= event["seq"] < row["end_seq"]
        ]
        of_step = [a["allocation_id"] for a in found["allocations"] if a["step"] == row["step"]]
        assert sorted(of_step) == sorted(inside) != []


def test_inner_calls_are_no_steps(tmp_path: Path) -> None:
    found = run(tmp_path, """
        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.parts = nn.ModuleList([Net(), nn.Identity()])
                self.depth = 0
            def forward(self, x, left=3):
                if left:
                    return self(x, left - 1)
                return self.parts[1](self.parts[0].__call__(x))
        Outer()(torch.ones(2, 8))
        class Plain: # no module: its calls are its parts'
            def __call__(self, x): return nn.ReLU()(net(x))
        Plain()(torch.ones(2, 8))
    """)  # fmt: skip
    assert classes(found) == ["Outer", "Net", "ReLU"]


def test_calls_that_raise(tmp_path: Path) -> None:
    found = run(tmp_path, """
        class Fails(nn.Module):
            def forward(self, x, error):
                net(x)
                raise error
        class Mine(Exception): pass
        for error in (Mine("a"), KeyboardInterrupt(), SystemExit(3)):
            try:
                Fails()(torch.ones(2, 8), error)
            except BaseException as caught:
                assert caught is error and caught.__context__ is None
        try:
            net(torch.ones(2, 9))
        except RuntimeError as error:
            assert "mat1 and mat2" in str(error)
        net(torch.ones(2, 8))
    """)  # fmt: skip
    errors = [step[3] for step in steps(found)]
    assert errors == ["Mine", "KeyboardInterrupt", "SystemExit", "RuntimeError", None]
    assert all(row["end_seq"] is not None for row in found["steps"])


def test_each_thread_has_its_steps(tmp_path: Path) -> None:
    found = run(tmp_path, """
        class Parallel(nn.Module):
            def forward(self, x):
                copies = [copy.deepcopy(net) for _ in range(2)]
                results = []
                def work(part):
                    results.append(part(x))
                threads = [threading.Thread(target=work, args=[part]) for part in copies]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                return results
        kept = Parallel()(torch.ones(2, 8))
    """)  # fmt: skip
    assert sorted(classes(found)) == ["Net", "Net", "Parallel"]
    threads = {row["step"]: row["thread_id"] for row in found["steps"]}
    assert len(set(threads.values())) == 3
    made = [row for row in found["allocations"] if row["step"] is not None]
    assert {row["step"] for row in made} == set(threads)
    assert all(row["thread_id"] == threads[row["step"]] for row in made)


def test_what_a_step_is_open_for(tmp_path: Path) -> None:
    found = run(tmp_path, """
        import os
        class Ends(nn.Module):
            def forward(self, x):
                kept.append(x + 1)
                os.kill(os.getpid(), 9)
        kept = []
        net(torch.ones(1, 8))
        program = os.fork()
        if program == 0:
            Ends()(torch.ones(4, 8))
        os.waitpid(program, 0)
    """)  # fmt: skip
    by_class = {row["root_module"]: row for row in found["steps"]}
    assert by_class["Net"]["end_seq"] is not None
    killed = by_class["Ends"]
    assert (killed["end_seq"], killed["end_time_ns"], killed["error"]) == (None, None, None)
    assert killed["batch_size"] == 4


def test_generators_and_greenlets(tmp_path: Path) -> None:
    pytest.importorskip("greenlet")
    found = run(tmp_path, """
        from greenlet import greenlet, getcurrent
        main = getcurrent()
        class Waits(nn.Module):
            def forward(self, x):
                y = net(x)
                main.switch()
                return net(x)
        waits = Waits()
        first, second = greenlet(waits), greenlet(waits)
        first.switch(torch.ones(1, 8))
        net(torch.ones(2, 8))
        second.switch(torch.ones(3, 8))
        first.switch()
        net(torch.ones(4, 8))
        second.switch()
        net(torch.ones(5, 8))
        greenlet(waits).switch(torch.ones(6, 8))  # never goes on
        net(torch.ones(7, 8))
        def turns():
            for size in range(8, 10): yield net(torch.ones(size, 8))
        for _ in zip(turns(), turns()): pass
    """)  # fmt: skip
    assert [step[:2] for step in steps(found)] == [
        ("Waits", 1), ("Net", 2), ("Waits", 3), ("Net", 4), ("Net", 5), ("Waits", 6),
        ("Net", 7), ("Net", 8), ("Net", 8), ("Net", 9), ("Net", 9),
    ]  # fmt: skip


def test_many_recordings_and_one_that_ends_inside_a_call(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PRELUDE + textwrap.dedent("""
        call = nn.Module.__call__, nn.Module._call_impl
        for i in range(5):
            with memtrace.record(f"{i}.memtrace"):
                net(torch.ones(i + 1, 8))
            net(torch.ones(100, 8))
        class Stops(nn.Module):
            def forward(self, x):
                recording.__exit__(None, None, None)
                return net(x)
        class Starts(nn.Module):
            def forward(self, x):
                recording.__enter__()
                return net(x)
        recording = memtrace.record("stopped.memtrace")
        recording.__enter__()
        Stops()(torch.ones(7, 8))
        recording = memtrace.record("started.memtrace")
        Starts()(torch.ones(8, 8))
        net(torch.ones(9, 8))
        recording.__exit__(None, None, None)
        assert call == (nn.Module.__call__, nn.Module._call_impl)
    """))  # fmt: skip
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    for i in range(5):
        assert steps(read(tmp_path / f"{i}.memtrace")) == [("Net", i + 1, {"x": [i + 1, 8]}, None)]
    stopped = read(tmp_path / "stopped.memtrace")["steps"]
    assert [(row["root_module"], row["end_seq"]) for row in stopped] == [("Stops", None)]
    assert steps(read(tmp_path / "started.memtrace")) == [("Net", 9, {"x": [9, 8]}, None)]


# ---- models that are not called plainly ---------------------------------------------------------


def test_compiled_scripted_traced_models(tmp_path: Path) -> None:
    found = run(tmp_path, """
        x = torch.ones(2, 8)
        compiled = torch.compile(net, backend="eager")
        compiled(x)
        compiled(x)
        in_place = Net()
        in_place.compile(backend="eager")
        in_place(x)
        torch.jit.script(nn.Sequential(nn.Linear(8, 4)))(x)
        traced = torch.jit.trace(net, x, check_trace=False)
        assert " aten::linear" in str(traced.inlined_graph)
        assert str(traced.inlined_graph).count("aten::") == 1  # not ours
        traced(x)
        symbolic = torch.fx.symbolic_trace(nn.Sequential(net, nn.ReLU()))
        symbolic(x)
    """)  # fmt: skip
    assert classes(found) == [
        *("Net", "Net"),  # torch.compile(net)
        "Net",
        "RecursiveScriptModule",
        *("Net", "TopLevelTracedModule"),
        "Sequential",  # as the graph module calls itself
    ]
    assert {step[1] for step in steps(found)} == {2}
    assert [step[2] for step in steps(found)][:3] == [{"x": [2, 8]}] * 3


def test_what_has_no_memory_is_no_step(tmp_path: Path) -> None:
    found = run(tmp_path, """
        from torch._subclasses.fake_tensor import FakeTensorMode
        with torch.device("meta"):
            on_meta = Net()
        on_meta(torch.ones(2, 8, device="meta"))
        with FakeTensorMode() as mode:
            Net()(torch.ones(2, 8))
        torch.export.export(net, (torch.ones(2, 8),))
        torch.fx.symbolic_trace(nn.Sequential(net, net))
        from torch.fx.experimental.proxy_tensor import make_fx
        make_fx(lambda x: nn.functional.relu(x), tracing_mode="fake")(torch.ones(2, 8))
    """)  # fmt: skip
    assert classes(found) == []


def test_functorch(tmp_path: Path) -> None:
    found = run(tmp_path, """
        from torch.func import functional_call, grad, vmap
        x = torch.ones(5, 8)
        y = vmap(net)(x)
        assert torch.equal(y, net(x))
        parameters = dict(net.named_parameters())
        loss = lambda parameters, x: functional_call(net, parameters, (x,)).sum()
        grad(loss)(parameters, x)
        vmap(grad(lambda x: net(x).sum()))(x)
        tell("input", "x", x)
        save()
    """)  # fmt: skip
    assert classes(found) == ["Net"] * 4
    assert told(tmp_path) <= named(found)


def test_recomputation_is_no_step(tmp_path: Path) -> None:
    found = run(tmp_path, """
        from torch.utils.checkpoint import checkpoint
        class Checkpointed(nn.Module):
            def forward(self, x):
                return checkpoint(net, x, use_reentrant=False)
        Checkpointed()(torch.ones(2, 8, requires_grad=True)).sum().backward()
        checkpoint(net, torch.ones(3, 8, requires_grad=True), use_reentrant=True).sum().backward()
    """)  # fmt: skip
    assert [step[:2] for step in steps(found)] == [("Checkpointed", 2), ("Net", 3)]
    marks = [row for row in found["marks"] if row["kind"].startswith("recompute")]
    assert [row["kind"] for row in marks] == ["recompute_begin", "recompute_end"] * 2
    assert all(row["thread_id"] is not None for row in marks)
    assert [row["seq"] for row in marks] == sorted(row["seq"] for row in marks)


def test_models_are_copied_as_without(tmp_path: Path) -> None:
    run(tmp_path, """
        net(torch.ones(2, 8))
        with torch.no_grad():
            for parameter in net.parameters(): parameter.zero_()
        loaded = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        torch.save(loaded, "model.pt")
    """)  # fmt: skip
    recorded_bytes = (tmp_path / "model.pt").read_bytes()
    subprocess.run([sys.executable, tmp_path / "program.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "model.pt").read_bytes() == recorded_bytes


# ---- tensors ------------------------------------------------------------------------------------


def test_inputs_and_outputs_of_every_form(tmp_path: Path) -> None:
    found = run(tmp_path, """
        from collections import namedtuple, OrderedDict
        from dataclasses import dataclass
        Pair = namedtuple("Pair", "left right")
        @dataclass
        class Batch:
            ids: torch.Tensor
            extra: dict
        class Hostile:
            def __init__(self): self.hidden = made()
            def __getattr__(self, name): raise SystemExit(name)
            def __iter__(self): raise SystemExit("iter")
            __len__ = __bool__ = __eq__ = __hash__ = __repr__ = None
            @property
            def ids(self): raise SystemExit("property")
        class Words(dict):
            def items(self): raise SystemExit("items")
            __iter__ = keys = items
        def made(*shape): return torch.ones(shape or (3, 2))
        class Any(nn.Module):
            result = None
            def forward(self, x=None, *rest, named=None, **others): return self.result
        model = Any()
        t = [made() for _ in range(12)]
        args = (t[0], [t[1], (t[2],)], Pair(t[3], t[4]), Batch(t[5], {"deep": t[6], 3: t[7]}))
        hostile = Hostile()
        view = made(4, 4)[1:, 1:]
        model.result = {"logits": made(), "more": (made(), None)}
        result = model(*args, named=Words(word=t[8]), h=hostile, view=view, none=None,
                       scalar=torch.tensor(3, dtype=torch.int16), empty=made(0, 2),
                       half=made().bfloat16().to(torch.complex64), model=net, text="x" * 10)
        assert result is model.result
        # made().bfloat16() and the like are gone by now: not told
        for name, tensor in {"x": t[0], "args[1][0]": t[1], "args[1][1][0]": t[2],
                             "args[2].left": t[3], "args[2].right": t[4], "args[3].ids": t[5],
                             "args[3].extra.deep": t[6], "args[3].extra[3]": t[7],
                             "named.word": t[8], "h.hidden": hostile.hidden,
                             "view": view}.items():
            tell("input", name, tensor)
        tell("output", "logits", result["logits"])
        tell("output", "more[0]", result["more"][0])
        for result in ([made(), made()], made(), Pair(made(), made()), Batch(made(), {})):
            model.result = result
            model()
            alive.append(result)
        results = [kept for kept in alive if not isinstance(kept, torch.UntypedStorage)]
        tell("output", "output[1]", results[0][1])
        tell("output", "output", results[1])
        tell("output", "output.left", results[2].left)
        tell("output", "ids", results[3].ids)
        save()
    """)  # fmt: skip
    (first, *_) = steps(found)
    assert first[1] == 3
    assert first[2]["scalar"] == []
    assert first[2]["empty"] == [0, 2]
    assert first[2]["view"] == [3, 3]
    assert "model" not in str(first[2])
    missing = told(tmp_path) - named(found)
    assert missing == set()
    dtypes = {row["name"]: row["dtype"] for row in found["names"]}
    assert (dtypes["scalar"], dtypes["half"]) == ("int16", "complex64")


def test_names_that_change_from_call_to_call(tmp_path: Path) -> None:
    found = run(tmp_path, """
        class First(nn.Module):
            def forward(self, x, **others): return x["out"] if "out" in x else None
        class Second(nn.Module):
            def forward(self, ids, *rest): return list(rest)
        class Text(str):
            is_hostile = False
            def __hash__(self):
                if self.is_hostile: raise SystemExit("hash")
                return 7
            def __eq__(self, other):
                if self.is_hostile: raise SystemExit("eq")
                return super().__eq__(other)
        def made(): return torch.ones(3, 2)
        first, second = First(), Second()
        for turn in range(3):
            keys = ["a", "b"] if turn != 1 else ["b", "a"]
            x = {key: made() for key in keys}
            x["out" if turn else "in"] = made()
            x[str(turn)] = made()
            x[turn] = made()
            first(x, **{f"more{turn}": (made(), [made()])})
            for key, tensor in x.items():
                tell("input", f"x[{key}]" if isinstance(key, int) else f"x.{key}", tensor)
            rest = [made() for _ in range(2 + turn)]
            second(made(), *rest)
            for i, tensor in enumerate(rest):
                tell("input", f"args[{1 + i}]", tensor)
        odd = {Text("one"): made(), Text("other"): made(), 1 << 80: made()}
        Text.is_hostile = True
        first({}, odd=odd)
        for name, tensor in zip(("odd.one", "odd.other", "odd[-1]"), odd.values()):
            tell("input", name, tensor)
        save()
    """)  # fmt: skip
    assert told(tmp_path) - named(found) == set()
    names = {row["name"] for row in found["names"] if row["kind"] == "input"}
    assert {f"more{turn}{place}" for turn in range(3) for place in ("[0]", "[1][0]")} <= names


def test_bounds(tmp_path: Path) -> None:
    found = run(tmp_path, """
        class Takes(nn.Module):
            def forward(self, many): return None
        many = list(torch.ones(5000, 1).unbind())
        takes = Takes()
        takes(many)
        takes([0.5] * 1_000_000)
        loop = []
        loop.append(loop)
        takes(loop)
        class Node: pass
        node = Node()
        node.next = node
        takes(node)
    """)  # fmt: skip
    assert len(found["steps"]) == 4
    assert len([row for row in found["names"] if row["kind"] == "input"]) == 4096
    (mark,) = [row for row in found["marks"] if row["kind"] == "tensors_left_out"]
    assert mark["text"] == "904"


def test_wrappers_of_tensors(tmp_path: Path) -> None:
    found = run(tmp_path, """
        from torch.utils._python_dispatch import return_and_correct_aliasing
        class Wrapper(torch.Tensor):
            @staticmethod
            def __new__(cls, inner):
                return torch.Tensor._make_wrapper_subclass(
                    cls, inner.shape, dtype=inner.dtype, dispatch_sizes_strides_policy="sizes")
            def __init__(self, inner): self.inner = inner
            @classmethod
            def __torch_dispatch__(cls, func, types, args, kwargs=None):
                if sys._getframe(1).f_code.co_name != "forward": seen.append(func)
                return args[0].inner.shape
        class Takes(nn.Module):
            def forward(self, x, sparse, csr, sub): return None
        seen = []
        class Sub(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                seen.append(func)
                return super().__torch_function__(func, types, args, kwargs or {})
        inner = torch.ones(3, 3)
        sparse, csr = torch.eye(4).to_sparse(), torch.eye(4).to_sparse_csr()
        wrapper, sub = Wrapper(inner), torch.ones(2).as_subclass(Sub)
        seen.clear()
        Takes()(wrapper, sparse, csr, sub)
        assert seen == [], seen
        tell("input", "x", inner)
        tell("input", "sparse values", sparse._values())
        tell("input", "sparse indices", sparse._indices())
        tell("input", "csr values", csr.values())
        with torch._C.DisableTorchFunctionSubclass(): tell("input", "sub", sub)
        save()
    """)  # fmt: skip
    assert told(tmp_path) - named(found) == set()


# ---- caches -------------------------------------------------------------------------------------


def test_dynamic_and_static_caches(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = run(tmp_path, MODELS + textwrap.dedent("""
        out = gpt2(input_ids=(first := ids(4)), use_cache=True)
        tell("input", "input_ids", first)
        tell("output", "logits", out.logits)
        field = cache_of(out)
        tell_cache(field, out[field])
        for i in range(2):
            tell_cache("past_key_values", cache := out[field])  # as it is given
            out = gpt2(input_ids=ids(1), past_key_values=cache)
            tell_cache("past_key_values", cache)  # and as it is left
        static = StaticCache(config=config, max_cache_len=16)
        for i in range(3):
            gpt2(ids(1), past_key_values=static)
        tell_cache("past_key_values", static)
        out = gpt2(ids(2), return_dict=False)
        tell("output", "output[0]", out[0])
        tell_cache("output[1]", out[1])
        save()
    """))  # fmt: skip
    assert len(found["steps"]) == 7
    wanted = told(tmp_path)
    assert wanted - named(found) == set()
    caches = {row for row in named(found) if row[0] == "kv_cache" and "length" not in row[1]}
    assert caches == {row for row in wanted if row[0] == "kv_cache"}
    assert "kv" not in json.dumps([step[2] for step in steps(found)])
    # A static cache is named once, however often it is given.
    static = [row["name"] for row in found["names"] if row["shape"] == [2, 2, 16, 8]]
    assert len(static) == len(set(static)) == 6


def test_the_paged_cache_of_continuous_batching(tmp_path: Path) -> None:
    pytest.importorskip("transformers.generation.continuous_batching.cache")
    found = run(tmp_path, """
        from transformers import (
            ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
        )
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, pad_token_id=0,
        )).eval()
        batching = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
        done = model.generate_batch(
            [[5, 6, 7], [8, 9]], generation_config=GenerationConfig(max_new_tokens=4),
            continuous_batching_config=batching,
        )
        assert len(done) == 2
    """)  # fmt: skip
    pages = [row for row in found["allocations"] if "PagedAttentionCache" in (row["source"] or "")]
    largest = max(pages, key=lambda row: row["size_bytes"])
    assert largest["category"] == "kv_cache"
    assert largest["category_by"] == "identity"


def test_the_cache_of_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = run(tmp_path, MODELS + textwrap.dedent("""
        t5 = T5ForConditionalGeneration(T5Config(
            vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)).eval()
        out = t5(input_ids=ids(4), decoder_input_ids=ids(3))
        field = cache_of(out)
        tell_cache(f"{field} self", out[field].self_attention_cache)
        tell_cache(f"{field} cross", out[field].cross_attention_cache)
        tell("output", "encoder_last_hidden_state", out.encoder_last_hidden_state)
        t5(encoder_outputs=(out.encoder_last_hidden_state,), decoder_input_ids=ids(1),
           past_key_values=out[field])
        tell("input", "encoder_outputs[0]", out.encoder_last_hidden_state)
        tell_cache("past_key_values self", out[field].self_attention_cache)
        tell_cache("past_key_values cross", out[field].cross_attention_cache)
        save()
    """))  # fmt: skip
    assert classes(found) == ["T5ForConditionalGeneration"] * 2
    assert told(tmp_path) - named(found) == set()


def test_generate_is_a_step_for_each_token(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = run(tmp_path, MODELS + textwrap.dedent("""
        gpt2.generate(ids(4), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    """))  # fmt: skip
    shapes = [step[2]["input_ids"] for step in steps(found)]
    assert shapes == [[2, 4], *([2, 1],) * 4]


# ---- weights that move ---------------------------------------------------------------------------


def test_weights_that_move_between_calls(tmp_path: Path) -> None:
    found = run(tmp_path, """
        def work():
            model, x = Net(), torch.ones(2, 8)
            model(x)
            model.double()
            model(x.double())  # the second call
        work()
        gc.collect()
    """)  # fmt: skip
    weights = [row for row in found["names"] if row["name"] == "l.weight"]
    assert [row["dtype"] for row in weights] == ["float32", "float64"]


def test_weights_that_move_late(tmp_path: Path) -> None:
    found = run(tmp_path, """
        import time
        model, x = Net(), torch.ones(2, 8)
        for i in range(4): model(x)
        moved = [model.l.weight.data_ptr()]
        def wait():  # longer than what a look costs allows for
            end = time.monotonic() + 2
            while time.monotonic() < end: model(x)
        model.l.weight.data = torch.ones(4, 8)
        wait()
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
        wait()
        model.l.lora = nn.Linear(8, 2, bias=False)
        wait()
        del model
        gc.collect()
    """)  # fmt: skip
    names = [row["name"] for row in found["names"] if row["kind"] == "weight"]
    assert names.count("l.weight") == 3
    assert names.count("l.bias") == 2
    assert names.count("l.lora.weight") == 1
