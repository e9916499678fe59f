# ruff: noqa: ARG002  # hooks are called with all of their arguments
"""A callback for the Trainer of Hugging Face's transformers.

    Trainer(..., callbacks=[MemtraceCallback()])                       as `memtrace run` records it
    Trainer(..., callbacks=[MemtraceCallback(record="a.memtrace")])    records the training itself

The trace has the stages training, evaluation and save, and each step of the training as a step of
that number: forward, backward and optimizer, over all its batches.
"""

from __future__ import annotations

import os
from typing import Any

from memtrace.errors import MemtraceError
from memtrace.frameworks.training import TrainingRecording

try:
    from transformers import DefaultFlowCallback, TrainerCallback
except ImportError as error:
    raise MemtraceError(
        f"the callback needs transformers: pip install transformers ({error})"
    ) from None

TRAINING, EVALUATION, SAVE = "training", "evaluation", "save"


class MemtraceCallback(TrainerCallback):
    """Names the stages and steps of a training, and logs the peaks of its memory.

    Logged are "memtrace/cuda0/peak_allocated_bytes" and "..._reserved_bytes": with each line that
    the Trainer logs the peak so far, exact, of each GPU of this process; where the callback records
    the training itself, with the last line the peaks of the trace, of "memtrace/cpu" too. They are
    in `trainer.state.log_history`. Callbacks hear of a line in the order in which they were added,
    those of W&B, TensorBoard and MLflow first: `before_loggers(trainer)` gives it to them as well.

    Args:
        record: Record the training into this trace. None: the recording that is on, if there is
            one (`memtrace run`, memtrace.record).
        force: Replace `record` when it is a trace already.
    """

    def __init__(
        self, record: str | os.PathLike[str] | None = None, *, force: bool = False
    ) -> None:
        self._run = TrainingRecording(record, force=force)
        self._trains = False
        #: The figures that were logged last.
        self.figures: dict[str, int] = {}

    def before_loggers(self, trainer: Any) -> MemtraceCallback:
        """Makes it hear of all before a Trainer's loggers do; adds it where it is not added yet."""
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        flow = [isinstance(callback, DefaultFlowCallback) for callback in callbacks]
        callbacks.insert(flow.index(True) + 1 if True in flow else 0, self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The stage training begins, and the recording if it is this callback's."""
        self._run.begin()
        self._run.enter_stage(TRAINING)
        self._trains = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step begins, of the number that the Trainer will give it."""
        self._run.leave_stages(but=1)
        self._run.begin_step(f"training step {state.global_step + 1}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is over, its optimizer included; what comes next is known."""
        self._run.leave_stages(but=1)
        if control.should_evaluate:
            self._run.enter_stage(EVALUATION)
        elif control.should_save:
            self._run.enter_stage(SAVE)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """As on_step_end."""
        self.on_step_end(args, state, control)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Of an evaluation without a training nothing else tells the beginning."""
        if self._run.stages == 0:
            self._run.enter_stage(EVALUATION)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The evaluation is over."""
        self._run.leave_stages(but=int(self._trains))
        if self._trains and control.should_save:
            self._run.enter_stage(SAVE)

    def on_predict(self, args: Any, state: Any, control: Any, *more: Any, **kwargs: Any) -> None:
        """The prediction is over."""
        self._run.leave_stages(but=int(self._trains))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The checkpoint is written."""
        self._run.leave_stages(but=int(self._trains))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Adds the figures to what is logged; the last line of a training ends the recording."""
        figures = self._run.figures()
        if self._trains and "train_loss" in (logs or {}):
            figures |= self._end()
        if logs is None or not figures:
            return
        self.figures = figures
        logs.update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)  # a copy of the logs

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends what on_train_begin began, where no last line was logged."""
        if self._trains:
            self.figures |= self._end()

    def _end(self) -> dict[str, int]:
        self._trains = False
        return self._run.end()
