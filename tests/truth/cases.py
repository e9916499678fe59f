"""Names of the models, for whoever has no torch at hand."""

from __future__ import annotations

ON_CPU = (
    "gpt2", "llama", "bert", "t5", "mixtral", "vit", "convnet", "lstm", "mamba", "lora", "tied",
    "mixed_dtypes", "giant_embedding", "mutated",
)  # fmt: skip
#: Those that the simulated CUDA runtime can run, where kernels compute nothing.
ON_CUDA = (
    "gpt2",
    "llama",
    "bert",
    "t5",
    "lora",
    "tied",
    "mixed_dtypes",
    "giant_embedding",
    "mutated",
)
