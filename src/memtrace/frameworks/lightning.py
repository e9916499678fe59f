# ruff: noqa: ARG002  # hooks are called with all of their arguments
"""A callback for the Trainer of Lightning (`lightning`, or the older `pytorch_lightning`).

    Trainer(..., callbacks=[MemtraceCallback()])                       as `memtrace run` records it
    Trainer(..., callbacks=[MemtraceCallback(record="a.memtrace")])    records the fit itself

The trace has the stages training, sanity check, validation, test and predict, and each batch of the
training as a step: forward, backward and optimizer.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from memtrace.errors import MemtraceError
from memtrace.frameworks.training import TrainingRecording

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
TRAINING, SANITY_CHECK, VALIDATION, TEST, PREDICT = (
    "training", "sanity check", "validation", "test", "predict",
)  # fmt: skip


def _callback_class() -> Any:
    # They are two libraries with a class each: that of the program's Trainer is there already.
    named = next((name for name in _PACKAGES if name in sys.modules), None)
    errors = []
    for name in [named] if named else _PACKAGES:
        try:
            return import_module(name).Callback
        except ImportError as error:
            errors.append(str(error))
    raise MemtraceError(f"the callback needs Lightning: pip install lightning ({errors[0]})")


class MemtraceCallback(_callback_class()):  # type: ignore[misc]  # known when it is imported
    """Names the stages and steps of a fit, and logs the peaks of its memory.

    Logged, by the trainer's loggers, are "memtrace/cuda0/peak_allocated_bytes" and
    "..._reserved_bytes": every `log_every_n_steps` the peak so far, exact, of each GPU of this
    process; where the callback records the fit itself, at its end the peaks of the trace, of
    "memtrace/cpu" too.

    Args:
        record: Record the fit into this trace. None: the recording that is on, if there is one
            (`memtrace run`, memtrace.record).
        force: Replace `record` when it is a trace already.
    """

    def __init__(
        self, record: str | os.PathLike[str] | None = None, *, force: bool = False
    ) -> None:
        super().__init__()
        self._run = TrainingRecording(record, force=force)
        self._logged_step = -1
        #: The figures that were logged last.
        self.figures: dict[str, int] = {}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A fit begins, before its model goes to its device."""
        if stage == "fit":
            self._run.begin()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """It is over; loggers are still there."""
        if stage == "fit":
            self._log(trainer, self._run.end())

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Nothing else will say that it is over."""
        self.figures |= self._run.end()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The stage training begins."""
        self._run.enter_stage(TRAINING)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """It is over."""
        self._run.leave_stages()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step begins."""
        self._run.begin_step(f"training step {trainer.global_step + 1}")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """It is over, its optimizer included."""
        self._run.end_step()
        step, every = trainer.global_step, trainer.log_every_n_steps
        if every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._log(trainer, self._run.figures())

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation steps before the training."""
        self._run.enter_stage(SANITY_CHECK)

    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        """They are over."""
        self._run.leave_stages()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A validation begins, by itself or in a training."""
        if not trainer.sanity_checking:
            self._run.leave_stages(but=1)
            self._run.enter_stage(VALIDATION)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """It is over."""
        if not trainer.sanity_checking:
            self._run.leave_stages(but=self._run.stages - 1)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """A test begins."""
        self._run.enter_stage(TEST)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """It is over."""
        self._run.leave_stages()

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """A prediction begins."""
        self._run.enter_stage(PREDICT)

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """It is over."""
        self._run.leave_stages()

    def _log(self, trainer: Any, figures: dict[str, int]) -> None:
        if not figures:
            return
        self.figures = figures
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
