"""Trainings by real frameworks of a tiny model, each in a process of its own.

    python training_programs.py (trainer | lightning) FOLDER [RECORD]

Prints JSON: what was logged, and what came out to the last bit. RECORD: "-": the callback is there
and records nothing itself; left out: there is no callback.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

STEPS, BATCH, LENGTH = 6, 4, 16


class Sentences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(place)
        ids = torch.randint(0, 64, (LENGTH,), generator=generator)
        return {"input_ids": ids, "labels": ids}


def digest(model: torch.nn.Module) -> str:
    whole = hashlib.sha256()
    for tensor in model.state_dict().values():
        whole.update(tensor.cpu().numpy().tobytes())
    return whole.hexdigest()


def trainer(folder: Path, record: str | None) -> dict[str, Any]:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )  # fmt: skip

    heard: list[dict[str, Any]] = []

    class Logger(TrainerCallback):  # as those of W&B and TensorBoard: there before ours
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            heard.append(dict(logs))

    set_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=64, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    arguments = TrainingArguments(
        str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=2, logging_steps=2, eval_strategy="steps", eval_steps=3,
        save_strategy="steps", save_steps=3, report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    run = Trainer(
        GPT2LMHeadModel(config), arguments, train_dataset=Sentences(64), eval_dataset=Sentences(8),
        callbacks=[Logger()],
    )  # fmt: skip
    if record is not None:
        from memtrace.frameworks.trainer import MemtraceCallback

        MemtraceCallback(record=None if record == "-" else record).before_loggers(run)
    result = run.train()
    return {
        "heard": heard, "history": run.state.log_history, "metrics": result.metrics,
        "loss": result.training_loss.hex(), "weights": digest(run.model),
    }  # fmt: skip


def lightning(folder: Path, record: str | None) -> dict[str, Any]:
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lightning.pytorch.loggers import CSVLogger

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Embedding(64, 32), torch.nn.Linear(32, 64), torch.nn.Dropout(0.5)
            )

        def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(
                self.net(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten()
            )

        def training_step(self, batch: dict[str, torch.Tensor], place: int) -> torch.Tensor:
            loss = self.loss(batch)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: dict[str, torch.Tensor], place: int) -> None:
            self.log("validation", self.loss(batch))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    seed_everything(0, verbose=False)
    model, callbacks, callback = Model(), [], None
    if record is not None:
        from memtrace.frameworks.lightning import MemtraceCallback

        callback = MemtraceCallback(record=None if record == "-" else record)
        callbacks = [callback]
    logger = CSVLogger(folder / "logs")
    run = Trainer(
        max_steps=STEPS, val_check_interval=3, log_every_n_steps=2, logger=logger,
        accelerator="cpu",
        callbacks=callbacks, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, accumulate_grad_batches=2,
    )  # fmt: skip
    loaders = [
        torch.utils.data.DataLoader(Sentences(number), batch_size=BATCH) for number in (64, 8)
    ]
    run.fit(model, *loaders)
    return {
        "figures": callback and callback.figures, "weights": digest(model),
        "logs": (Path(logger.log_dir) / "metrics.csv").read_text(),
    }  # fmt: skip


if __name__ == "__main__":
    kind, where, *recorded = sys.argv[1:]
    done = {"trainer": trainer, "lightning": lightning}[kind](Path(where), *recorded or [None])
    print("\n" + json.dumps(done))
