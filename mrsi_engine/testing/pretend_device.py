"""A second device on a machine that has none: tensors on it are CPU tensors that say otherwise.

It is as strict as CUDA: an operation on tensors of both devices is refused, but for those that
CUDA allows (copies, CPU tensors of no dimension, CPU indices), and so are ``numpy()`` and products
of integer matrices. So code that
runs here makes every tensor where its input lies, and would run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: What stands for a GPU: torch makes tensors that claim to lie there without any driver.
THERE = torch.device("meta")

_HERE = torch.device("cpu")
_aten = torch.ops.aten

#: Operations between devices that CUDA allows.
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}

#: ... and those that take no tensor of the other device, not even one number.
_STRICT = {_aten.cat.default, _aten.stack.default, _aten.mm.default, _aten.bmm.default}


#: CUDA multiplies no matrices of integers.
_PRODUCTS = {_aten.mm.default, _aten.bmm.default, _aten.mv.default, _aten.dot.default}


class Elsewhere(Tensor):
    """A tensor on the other device; ``held`` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=THERE,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    def tolist(self) -> Any:
        """Numbers come to the host one by one or as a list, as from CUDA."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} on a tensor of a device that is gone")


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """The other device, as long as this lasts."""
    with _NumbersFromHere(), _TwoDevices():
        yield THERE


class _NumbersFromHere(TorchFunctionMode):
    """Makes tensors of Python's numbers on the CPU first: what torch makes there holds none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            func, device = torch.tensor, kwargs.get("device", args[0].device)
            kwargs = {"dtype": args[0].dtype, **kwargs, "device": device}
            args = args[1:]
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **kwargs)
        if isinstance(args[0], Tensor):
            return args[0].to(**kwargs)
        device = torch.device(kwargs.pop("device", None) or _HERE)
        return func(*args, **kwargs).to(device)


class _TwoDevices(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and keeping the compiler out would import it.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((args, *kwargs.values())))
        there = any(isinstance(t, Elsewhere) for t in tensors)
        if there:
            _refuse_mixture(func, args, tensors)
        wanted = kwargs.get("device")
        if wanted is not None:
            there = wanted == THERE
            kwargs["device"] = _HERE
        held = {name: _each(_held, value) for name, value in kwargs.items()}
        # What pretends to be a tensor elsewhere cannot be an inference tensor too.
        with torch.inference_mode(False), torch.no_grad():
            result = func(*_each(_held, args), **held)
            if "out" in kwargs:
                return kwargs["out"]
            if func._schema.name.endswith("_") and args and isinstance(args[0], Tensor):
                return args[0]
            return _each(_sent, result) if there else result


def _refuse_mixture(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func in _COPIES:
        return
    if func in _PRODUCTS and not (args[0].is_floating_point() or args[0].is_complex()):
        raise RuntimeError(f"{func}: not implemented for {args[0].dtype} but on the CPU")
    if func in _INDEXED and isinstance(args[0], Elsewhere):
        indices = {id(i) for i in args[1] if i is not None}
        tensors = [t for t in tensors if id(t) not in indices]
    least = 0 if func in _STRICT else 1
    strangers = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() >= least]
    if strangers:
        shapes = [tuple(t.shape) for t in strangers]
        raise RuntimeError(f"{func}: tensors of shapes {shapes} lie on the CPU, others do not")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _each(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """What an operation takes or returns with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)([_each(change, part) for part in value])
    return value


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, Elsewhere) else tensor


def _sent(tensor: Tensor) -> Tensor:
    # A conjugate is a mark on a tensor that the one standing for it would not have.
    return Elsewhere(tensor.resolve_conj().resolve_neg())
