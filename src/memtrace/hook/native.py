"""The interface of `memtrace._hook`, compiled per torch version (csrc/bind/hook_module.cpp)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

#: What a mark says of a call: text, value, value2, device code (0 the CPU, 1 + i cuda:i).
Description = tuple[str, int, int, int]
Describe = Callable[[tuple[Any, ...], dict[str, Any]], Description | None]


class NativeHook(Protocol):
    """A loaded `memtrace._hook`."""

    def start(
        self,
        recorder_api: object,
        *,
        cpu: bool,
        operators: bool,
        stacks: bool,
        stack_min_bytes: int,
        module_class: type,
        tensor_class: type,
        runner_prefixes: list[str],
    ) -> str:
        """Record into this recorder from now on; why stacks are off, or an empty text."""

    def stop(self) -> bool:
        """Record no more; False: a thread was still inside a hook."""

    def pause(self) -> bool:
        """Record the end of recorded memory alone, and what is rare; likewise False."""

    def resume(self) -> None:
        """Record all again, and list the CUDA memory of the pause that is live."""

    def recording(self) -> bool:
        """Whether events are being recorded, or are in a pause."""

    def has_dispatcher_shortcut(self) -> bool:
        """Whether operators come the short way (csrc/hook/dispatcher_shortcut.h)."""

    def attach_cuda(self) -> str:
        """Attach to the CUDA caching allocator: attached, no_cuda_build or not_initialized."""

    def marked(
        self,
        original: Callable[..., Any],
        kind: str,
        describe: Describe | None = None,
        after: bool = False,
    ) -> Callable[..., Any]:
        """The original, which writes a mark of this kind at each call."""

    def let_go_of(self, tensors: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Keep no reference to these parameters, not even a weak one; a `Describe` of no mark."""

    def parts_of(self, tensor: object) -> list[tuple[str, Any]]:
        """The tensors that hold a tensor's memory, and which part of it each is ("": itself)."""

    def own_attribute(self, owner: object, name: str) -> Any:
        """What lies in the object itself under that name, or None; runs no code of its class."""

    def storage_address(self, storage: object) -> int:
        """Where a torch.UntypedStorage lies, without making a copy of what others share with it."""

    def module_id(self, module: object) -> int:
        """The id by which stacks name this nn.Module; 0: no stack did yet."""

    def steps_changed(self, variable: object, recording: int) -> bool:
        """A marked step was begun or ended: `variable` of contextvars, recording << 32 | step.

        False: this Python's contexts are laid out in an unknown way, and no step is told.
        """

    def take_new_roots(self) -> list[tuple[int, Any]]:
        """Outermost modules first seen in stacks since the last call, with their ids."""

    def set_root_callback(self, callback: Callable[[], object] | None) -> None:
        """Call back, in the main thread, soon after new roots were seen."""

    def hold_parameter(self, parameter: object, name: str) -> None:
        """Remember the name of a model's parameter, for its gradient and its optimizer's state."""

    def set_unnamed_callback(self, callback: Callable[[], object] | None) -> None:
        """Call back when an optimizer steps with a parameter that has no name yet."""

    def set_old_state_callback(self, callback: Callable[[object], object] | None) -> None:
        """Call it with the state that an optimizer had before its first step was seen."""

    def set_look(self, look: Callable[[object], object] | None) -> None:
        """Call it with a model before its second call, and with None now and then."""
