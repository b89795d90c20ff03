"""What a game has to know of the machinery around a model: wrappers, ranks, scalers, compilers, generators, Keras."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

F = TypeVar("F", bound=Callable[..., Any])


def bare_module(module: nn.Module) -> nn.Module:
    """The module itself, under `torch.compile` and data-parallel wrappers."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"a player is a {type(module).__name__}; expected a torch.nn.Module (attach(g, d, opt_g, opt_d))"
        )
    while True:
        if isinstance(module, (DistributedDataParallel, DataParallel)):
            module = module.module
        elif isinstance(inner := _inside(module), nn.Module):
            module = inner
        else:
            return module


def _inside(module: nn.Module) -> object:
    """What `torch.compile` or Lightning Fabric has wrapped; from `__dict__`, since Fabric hands on other attributes."""
    modules = module.__dict__.get("_modules", {})
    return modules.get("_orig_mod") or modules.get("_forward_module")


def sharded(module: nn.Module) -> str | None:
    """The name of what keeps only a part of the module's parameters on each rank (FSDP, DTensor), or None."""
    for part in module.modules():
        for kind in type(part).__mro__:
            if kind.__name__ in ("FullyShardedDataParallel", "FSDPModule") and kind.__module__.startswith("torch."):
                return kind.__name__
    return next((type(p).__name__ for p in module.parameters() if type(p).__name__ == "DTensor"), None)


def rows_of(tree: Any, rows: slice, n: int) -> Any:
    """The same nest of tuples, lists and dicts, with these rows of each tensor that has n of them."""
    if isinstance(tree, Tensor):
        return tree[rows] if tree.dim() and len(tree) == n else tree
    if isinstance(tree, Mapping):
        return {key: rows_of(value, rows, n) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [rows_of(value, rows, n) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def bare_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer that has the hook table, under the wrappers of Lightning, Fabric and Accelerate."""
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    if type(optimizer).__module__.partition(".")[0] == "keras":
        raise TypeError(
            f"an optimizer is Keras' {type(optimizer).__name__}, which has no step hooks; expected "
            "stabilgan.integrations.keras.KerasOptimizer(optimizer, model.trainable_variables)"
        )
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"an optimizer is a {type(optimizer).__name__}; expected torch.optim.Optimizer: attach(g, d, opt_g, opt_d)"
        )
    return optimizer


def keras_variables(module: nn.Module) -> list[Any] | None:
    """A Keras model's variables, in the order of its layers, which a copy shares; None if it is no Keras model.

    Keras registers them as torch parameters sorted by names that a copy does not share, BatchNorm's statistics and the
    seeds of Dropout among them.
    """
    keras_model: Any = module
    return list(keras_model.variables) if _is_keras(module) else None


def _is_keras(module: nn.Module) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(module, keras.Layer)


def state(module: nn.Module) -> list[Tensor]:
    """All tensors that make up a model, parameters and buffers, in an order that a deep copy shares."""
    if (variables := keras_variables(module)) is not None:
        return [variable.value for variable in variables]
    return [*module.parameters(), *module.buffers()]


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """What Keras keeps in the module and changes as it is called is put back at the end; buffers are not looked at."""
    layers = [layer for layer in module.modules() if _is_keras(layer)]
    kept = {id(p): p for layer in layers for p in layer.parameters() if not p.requires_grad}
    before = [(p, p._version, p.detach().clone()) for p in kept.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, version, value in before:
                if p._version != version:
                    p.copy_(value)


def ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if ranks() > 1 else 0


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of `x` over all ranks; `x` itself where there is one."""
    if ranks() > 1:
        x = x.clone()
        dist.all_reduce(x)
        x /= ranks()
    return x


def first_over_ranks(thing: Any) -> Any:
    """What the first rank has that has something, None where none has; waits for all ranks."""
    return next((found for found in of_all_ranks(thing) if found is not None), None)


def of_all_ranks(thing: Any) -> list[Any]:
    """What each rank has, in their order; waits for all of them."""
    things = [thing] * ranks()
    if ranks() > 1:
        dist.all_gather_object(things, thing)
    return things


def add_gradients(loss: Tensor, parameters: Sequence[Tensor], optimizer: Optimizer, *, over_ranks: bool = True) -> None:
    """Adds d loss / d parameters to their `.grad`, averaged over ranks and scaled as the gradients there are.

    DDP has already averaged what the loop's own backward left, and does not hear of this pass. A fused optimizer under
    `GradScaler` gets its gradients scaled (`optimizer.grad_scale`); others get them unscaled.
    """
    gradients = list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    if over_ranks and ranks() > 1:
        flat = mean_over_ranks(torch.cat([g.reshape(-1) for g in gradients]))
        parts = flat.split_with_sizes([g.numel() for g in gradients])
        gradients = [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
    if (scale := getattr(optimizer, "grad_scale", None)) is not None:
        gradients = [g * scale for g in gradients]
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient if p.grad is None else p.grad.add_(gradient)


def left_out(optimizer: Optimizer) -> Tensor | None:
    """Whether the step under way moves nothing, as one truth value on the device; None where every step moves.

    A fused optimizer under `GradScaler` is asked for its step after an overflow, too, and leaves it out by itself;
    others are not asked.
    """
    found = getattr(optimizer, "found_inf", None)
    return None if found is None else (found != 0).reshape(())


class _Around(nn.Module):
    """A module, and what calls it."""

    def __init__(self, module: nn.Module, through: Callable[..., Any]) -> None:
        super().__init__()
        self.inside = module
        self._through = (through,)  # in a tuple, lest a module's parameters be found twice

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._through[0](*args, **kwargs)


def called_with(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    through: Callable[..., Any] | None = None,
) -> Any:
    """The module's output with other parameters and buffers, by name; called by `through`, where one is given."""
    if through is None:
        return torch.func.functional_call(module, dict(tensors), args, dict(kwargs))
    inside = {f"inside.{name}": tensor for name, tensor in tensors.items()}
    return torch.func.functional_call(_Around(module, through), inside, args, dict(kwargs))


@contextmanager
def without_reducing(call: Callable[..., Any]) -> Iterator[None]:
    """Inside, a DistributedDataParallel module that is called waits for no gradients of its own parameters."""
    if isinstance(call, DistributedDataParallel):
        with call.no_sync():
            yield
    else:
        yield


def uncompiled(function: F) -> F:
    """The function, never traced into a compiled graph."""
    return cast(F, torch.compiler.disable(function))


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 at least, whatever autocast has made of it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def own_forward(module: nn.Module) -> Iterator[None]:
    """Inside, the module's forward is its own; Accelerate puts one with autocast into the module in its place."""
    given = vars(module).get("forward")
    if given is None or "_original_forward" not in vars(module):
        yield
        return
    vars(module)["forward"] = vars(module)["_original_forward"]
    try:
        yield
    finally:
        vars(module)["forward"] = given


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators draw from `seed`; afterwards they go on as if nothing had happened."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def unnoticed(device: torch.device, *, seed: int) -> Iterator[None]:
    """A pass inside it draws from generators of its own, runs uncompiled and without autocast."""
    with (
        drawing_from(seed % 2**63, device),
        torch.compiler.set_stance("force_eager"),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def outside() -> int:
    """The stacklevel of the nearest frame that is neither ours nor torch's: the loop's own line."""
    ours = tuple(f"{Path(path).parent}{os.sep}" for path in (__file__, torch.__file__))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level
