"""What of torch runs on the simulated runtime: each piece of code in a process of its own."""

from __future__ import annotations

import pytest

from simcuda.conftest import RunCode

pytestmark = pytest.mark.cuda_sim

COMPUTE = {
    "arithmetic": """
        x = torch.zeros(1000, 1000, device="cuda")
        z = ((x + torch.ones(1000, 1000, device="cuda")) * 2).relu_().sum()
        assert z.item() == 0.0  # no kernel ran
    """,
    "data_dependent_shapes": """
        x = torch.zeros(1000, device="cuda")
        assert x.nonzero().shape == (0, 1)
        assert x[x > 0].shape == (0,)
        assert torch.unique(x).shape == (0,)
    """,
    "print_tensor": """
        assert "device='cuda:0'" in repr(torch.ones(3, device="cuda"))
    """,
    "copies_are_real": """
        x = torch.arange(1000)
        assert torch.equal(x.cuda().cpu(), x)
        assert x.cuda().data_ptr() % 512 == 0
    """,
    "linear": """
        y = torch.nn.Linear(512, 256).cuda()(torch.randn(8, 512, device="cuda"))
        assert y.shape == (8, 256)
    """,
    "linear_bf16": """
        y = torch.nn.Linear(512, 256).cuda().bfloat16()(
            torch.randn(8, 512, device="cuda", dtype=torch.bfloat16))
        assert y.dtype == torch.bfloat16
    """,
    "convolution_without_cudnn": """
        torch.backends.cudnn.enabled = False
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.MaxPool2d(2),
            torch.nn.GroupNorm(4, 16), torch.nn.AdaptiveAvgPool2d(1)).cuda()
        y = model(torch.randn(8, 3, 64, 64, device="cuda"))
        y.sum().backward()
        assert y.shape == (8, 16, 1, 1)
    """,
    "lstm_without_cudnn": """
        torch.backends.cudnn.enabled = False
        y, _ = torch.nn.LSTM(32, 64, 2).cuda()(torch.randn(5, 3, 32, device="cuda"))
        y.sum().backward()
        assert y.shape == (5, 3, 64)
    """,
    "indexing_sorting_reductions": """
        embedding = torch.nn.Embedding(100, 16).cuda()
        embedding(torch.zeros(4, 5, dtype=torch.long, device="cuda")).sum().backward()
        x = torch.randn(1000, device="cuda")
        x.sort(), x.topk(5), x.cumsum(0), torch.cat([x, x]), x.softmax(0)
        assert torch.nn.functional.dropout(x).shape == (1000,)
    """,
    "random_numbers": """
        generator = torch.Generator("cuda").manual_seed(0)
        torch.randn(4, device="cuda", generator=generator)
        torch.multinomial(torch.ones(10, device="cuda") / 10, 3)
        assert torch.randperm(100, device="cuda").shape == (100,)
        assert torch.cuda.get_rng_state().numel() > 0
    """,
    "sparse": """
        import warnings
        warnings.simplefilter("ignore")
        x = torch.zeros(16, 16, device="cuda")
        assert torch.sparse.mm(x.to_sparse_csr(), x).shape == (16, 16)
    """,
    "attention_kernels": """
        from torch.nn.attention import SDPBackend, sdpa_kernel
        q = torch.randn(2, 4, 64, 32, device="cuda", dtype=torch.float16, requires_grad=True)
        for name in ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION"):
            with sdpa_kernel(getattr(SDPBackend, name)):
                torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    """,
    "transformer_fused_adamw_amp": """
        layer = torch.nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        scaler = torch.amp.GradScaler("cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(torch.randn(4, 32, 128, device="cuda")).float().pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert len(optimizer.state) == len(list(model.parameters()))
    """,
    "transformers_gpt2": """
        transformers = __import__("pytest").importorskip("transformers")
        config = transformers.GPT2Config(
            n_layer=2, n_head=4, n_embd=128, vocab_size=1000, bos_token_id=0, eos_token_id=0)
        model = transformers.GPT2LMHeadModel(config).cuda()
        ids = torch.zeros(2, 64, dtype=torch.long, device="cuda")
        result = model(ids, labels=ids)
        result.loss.backward()
        assert result.logits.shape == (2, 64, 1000)
    """,
    "checkpoint": """
        from torch.utils.checkpoint import checkpoint
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).cuda()
        x = torch.randn(4, 64, device="cuda", requires_grad=True)
        checkpoint(model, x, use_reentrant=False).sum().backward()
        assert x.grad is not None
    """,
    "compile_aot_eager": """
        f = torch.compile(lambda x: (x * 2 + 1).relu(), backend="aot_eager")
        assert f(torch.randn(100, device="cuda", requires_grad=True)).shape == (100,)
    """,
    "fully_sharded_on_a_fake_group": """
        import torch.distributed
        from torch.distributed.fsdp import fully_shard
        from torch.testing._internal.distributed.fake_pg import FakeStore
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)).cuda()
        fully_shard(model[0])
        fully_shard(model)
        model(torch.randn(2, 64, device="cuda")).sum().backward()
        torch.optim.Adam(model.parameters()).step()
        torch.distributed.destroy_process_group()
    """,
    "dataloader_with_pinning": """
        from torch.utils.data import DataLoader, TensorDataset
        data = TensorDataset(torch.randn(64, 8))
        for (batch,) in DataLoader(data, batch_size=16, pin_memory=True, num_workers=1):
            assert batch.is_pinned()
            assert torch.equal(batch.cuda(non_blocking=True).cpu(), batch)
    """,
    "profiler": """
        from torch.profiler import ProfilerActivity, profile
        with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as p:
            x = torch.zeros(1 << 20, device="cuda")
        events = [e for e in p.events() if e.name == "[memory]" or e.name == "aten::zeros"]
        assert sum(e.self_device_memory_usage for e in p.key_averages()) == 4 << 20
    """,
    "fork_is_refused": """
        import os
        torch.zeros(1, device="cuda")
        child = os.fork()
        if child == 0:
            try:
                torch.zeros(1, device="cuda")
            except RuntimeError as error:
                os._exit(0 if "forked subprocess" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """,
}

NOT_SIMULATED = {
    "cudnn": "torch.nn.Conv2d(3, 16, 3).cuda()(torch.randn(8, 3, 64, 64, device='cuda'))",
    "cusolver": "torch.linalg.cholesky(torch.eye(4, device='cuda'))",
    "cufft": "torch.fft.fft(torch.zeros(16, device='cuda'))",
}


@pytest.mark.parametrize("name", COMPUTE)
def test_runs(run_code: RunCode, name: str) -> None:
    run_code(COMPUTE[name])


@pytest.mark.parametrize("name", NOT_SIMULATED)
def test_fails_with_an_error_rather_than_a_crash(run_code: RunCode, name: str) -> None:
    run_code(f"""
try:
    {NOT_SIMULATED[name]}
except RuntimeError:
    torch.zeros(1, device="cuda")  # and the machine still works
else:
    raise AssertionError("it is simulated after all: say so in README.md")
""")
