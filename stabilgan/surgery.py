"""Operations on a discriminator: find its last layer, put something in its place, tell the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
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


def ends_in_sigmoid(d: nn.Module) -> bool:
    """Whether D's last registered layer is a sigmoid, so that its scores are probabilities.

    A sigmoid called as a function inside `forward` can't be seen here.

    >>> ends_in_sigmoid(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()))
    True
    """
    last = leaves(d)[-1:]
    return bool(last) and isinstance(last[0][1], nn.Sigmoid)


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
    """Gives new parameters to the optimizer, in the group that holds `near`: same rate, same schedule."""
    for group in optimizer.param_groups:
        if any(p is near for p in group["params"]):
            group["params"].extend(new)
            return
    raise ValueError("the optimizer does not hold the layer beside which parameters were added")
