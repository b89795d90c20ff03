"""Operations on a discriminator: find its last layer, put something in its place, tell the optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def leaves(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules without children, parametrizations looked through, in the order in which they were registered."""
    return [
        (name, m)
        for name, m in module.named_modules()
        if "parametrizations" not in name.split(".")
        and not [c for n, c in m.named_children() if n != "parametrizations"]
    ]


_SHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)


def ends_in_sigmoid(d: nn.Module) -> bool:
    """Whether D's last layer surely is a sigmoid, so that its scores are probabilities.

    Sure is the last of a Sequential and a module's only child; of several children of another module nobody can tell
    which is called last, and of a function inside `forward` neither: see `passed_sigmoid`.

    >>> ends_in_sigmoid(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()))
    True
    """
    children = [c for name, c in d.named_children() if name != "parametrizations"]
    if isinstance(d, nn.Sequential):
        children = [c for c in children if not isinstance(c, _SHAPES)][-1:]
    if len(children) == 1:
        return ends_in_sigmoid(children[0])
    return isinstance(d, nn.Sigmoid)


_LOOKED_THROUGH = {
    *("View", "Reshape", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Alias", "AsStrided", "Expand"),
    *("Select", "Slice", "Split", "SplitWithSizes", "Unbind", "Permute", "Transpose", "T", "Clone", "ToCopy"),
    *("Mean", "Sum", "Cat", "Stack", "DDPSink"),
}


def passed_sigmoid(scores: Tensor) -> bool | None:
    """Whether the last thing that was computed in these scores is a sigmoid, by their graph; None where none is there.

    Looks through what only moves, copies, joins or averages numbers. A sigmoid that gates something is none at the end.

    >>> passed_sigmoid(torch.ones(2, 1, requires_grad=True).sigmoid().flatten())
    True
    """
    node: Any = scores.grad_fn
    while node is not None:
        kind = str(node.name()).rpartition("::")[2].partition("Backward")[0].lstrip("_")
        if kind == "CompiledFunction":
            return None
        if kind not in _LOOKED_THROUGH:
            return kind == "Sigmoid"
        node = next((inner for inner, _ in node.next_functions if inner is not None), None)
    return None


def entrance(d: nn.Module) -> nn.Module | None:
    """The layer that samples surely come to as they are: the first of a Sequential; None where nobody can tell.

    A forward of one's own may well reshape samples before its first layer.

    >>> entrance(nn.Sequential(nn.Sequential(nn.Identity(), nn.Linear(784, 8)), nn.Linear(8, 1)))
    Linear(in_features=784, out_features=8, bias=True)
    """
    while type(d).forward is nn.Sequential.forward and "forward" not in vars(d):
        inside = [m for name, m in d.named_children() if name != "parametrizations" and not isinstance(m, nn.Identity)]
        if not inside:
            return None
        d = inside[0]
    return d if type(d).__module__.startswith("torch.nn.") else None


LABELS = ("y", "label", "labels", "class_label", "class_labels")
"""Names under which a forward without annotations asks for labels."""


def labels_needed(d: nn.Module) -> str | None:
    """The name of the tensor that D can't be called without, beside the samples; None where nothing says so.

    It is what `forward` has no default for, if it is annotated as a Tensor, or not at all but has a name of `LABELS`.

    >>> class Conditional(nn.Module):
    ...     def forward(self, x, labels): ...
    >>> labels_needed(Conditional()), labels_needed(nn.Linear(2, 1))
    ('labels', None)
    """
    try:
        asked = list(inspect.signature(d.forward).parameters.values())[1:]
    except (TypeError, ValueError):  # built in, or something else without a signature
        return None
    named = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    for p in asked:
        if p.default is p.empty and p.kind not in named:
            annotated = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "")
            if annotated.rpartition(".")[2] == "Tensor" or (p.annotation is p.empty and p.name in LABELS):
                return p.name
    return None


def last_layer(d: nn.Module, name: str | None = None) -> str:
    """The name of D's last linear or convolutional layer, in the order of registration; or of the one named.

    Raises:
        ValueError: D has none, or none of that name.

    >>> last_layer(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)))
    '2'
    """
    found = [n for n, m in leaves(d) if isinstance(m, LAYERS)]
    if name is not None:
        if name not in found:
            raise ValueError(
                f"D has no linear or convolutional layer named {name!r}; it has {', '.join(found) or 'none'}"
            )
        return name
    if not found:
        raise ValueError(
            f"no linear or convolutional layer was found in {type(d).__name__}; expected one as D's last, to put "
            "features beside its input"
        )
    return found[-1]


def first_layer(d: nn.Module, name: str | None = None) -> str:
    """The name of D's first linear or convolutional layer, in the order of registration; or of the one named.

    Raises:
        ValueError: D has none, or none of that name.

    >>> first_layer(nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)))
    '1'
    """
    last = last_layer(d, name)
    return last if name is not None else next(n for n, m in leaves(d) if isinstance(m, LAYERS))


def replace(d: nn.Module, name: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Puts `make(layer)` in the place of D's layer of that name and returns it.

    Raises:
        ValueError: the layer is D itself, which has no place to be put in.
    """
    if not name:
        raise ValueError("D is a single layer; wrap it in nn.Sequential so that a layer can be put beside it")
    parent = d.get_submodule(name.rpartition(".")[0])
    new = make(d.get_submodule(name))
    setattr(parent, name.rpartition(".")[2], new)
    return new


def tell(optimizer: Optimizer, near: nn.Parameter, new: Iterable[nn.Parameter]) -> None:
    """Gives new parameters to the optimizer, in the group that holds `near`: same rate, same schedule.

    Learning-rate schedulers keep a rate for each group, so those built before go on and move the new ones as well.

    Raises:
        ValueError: the optimizer does not hold `near`, or can't take more parameters now.
    """
    _refuse_settled(optimizer)
    for group in optimizer.param_groups:
        if any(p is near for p in group["params"]):
            group["params"].extend(new)
            return
    raise ValueError("the optimizer does not hold the layer beside which parameters were added")


def exchange(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter) -> None:
    """Gives the optimizer a parameter in the place of another; what it has gathered about the old one is dropped.

    Raises:
        ValueError: the optimizer does not hold `old`, or can't take other parameters now.
    """
    _refuse_settled(optimizer)
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            if p is old:
                group["params"][i] = new
                optimizer.state.pop(old, None)
                return
    raise ValueError("the optimizer does not hold the layer whose weights were replaced")


def _refuse_settled(optimizer: Optimizer) -> None:
    kinds = [kind.__name__ for kind in type(optimizer).__mro__]
    if "ZeroRedundancyOptimizer" in kinds:
        raise ValueError(
            "D's optimizer is a ZeroRedundancyOptimizer, which has dealt its parameters out to the ranks already; "
            "expected a plain optimizer where a trick adds layers to D"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        if optimizer.state:
            raise ValueError(
                "D's optimizer is an LBFGS that has made steps already, whose curvature is of the old parameters; "
                "attach the game before the first step, or after making a new optimizer"
            )
        optimizer._numel_cache = None
