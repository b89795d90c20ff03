"""Keras 3 on the torch backend: lets a game hear the steps of a Keras optimizer.

A Keras model is a torch module, so it plays as it is. A Keras optimizer is no torch optimizer: it has no step hooks,
and takes gradients as arguments. `KerasOptimizer` puts it behind torch's interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class KerasOptimizer(torch.optim.Optimizer):
    """A Keras optimizer with torch's step hooks; it updates weights exactly as before.

    `apply(gradients)` in the place of the Keras optimizer's own `apply` keeps a Keras training step as it is. Torch's
    `zero_grad()`, `loss.backward()`, `step()` work too. A variable without a gradient is left alone.

    Args:
        optimizer: a `keras.optimizers.Optimizer`: `keras.optimizers.RMSprop(1e-3)`. Its learning rate, schedule,
            clipping and weight decay stay its own; torch's schedulers have no say.
        variables: what it trains: `model.trainable_variables`.

    Raises:
        TypeError: it is no Keras optimizer.
        ValueError: there are no variables; Keras runs on another backend; the optimizer accumulates gradients by
            itself, so that not each of its steps moves the weights.
    """

    def __init__(self, optimizer: Any, variables: Iterable[Any]) -> None:
        import keras

        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                f"{optimizer!r} is a {type(optimizer).__name__}; expected a Keras optimizer, such as "
                "keras.optimizers.RMSprop(1e-3)"
            )
        if keras.backend.backend() != "torch":
            raise ValueError(
                f"Keras runs on {keras.backend.backend()}; expected torch: set KERAS_BACKEND=torch before keras is "
                "imported"
            )
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise ValueError(
                "this Keras optimizer accumulates gradients by itself, so that a game can't tell when weights move; "
                "let the loop do it (several backward(), then one step) and tell attach(..., accumulate=n)"
            )
        self.variables = list(variables)
        if not self.variables:
            raise ValueError(
                "a Keras optimizer without variables; expected model.trainable_variables of a model that was built "
                "(give it keras.Input, or call it once) and whose `trainable` is True"
            )
        self.keras = optimizer
        if not optimizer.built:
            optimizer.build(self.variables)
        super().__init__([variable.value for variable in self.variables], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the gradients in `.grad`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(v.value.grad, v) for v in self.variables if v.value.grad is not None]
        with torch.no_grad():
            self.keras.apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])
        return loss

    def apply(self, gradients: Sequence[Tensor | None], variables: Sequence[Any] | None = None) -> None:
        """Keras' way of saying `step`: one gradient for each variable, by default those it was made with."""
        for gradient, variable in zip(gradients, self.variables if variables is None else variables, strict=True):
            variable.value.grad = gradient
        self.step()

    def state_dict(self) -> dict[str, Any]:
        """Step count, learning rate, momenta: what Keras keeps, as plain tensors in Keras' own order."""
        return {"keras": [variable.value.detach().clone() for variable in self.keras.variables]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises ValueError if it is of another kind of optimizer."""
        saved, own = state_dict["keras"], self.keras.variables
        shapes, expected = [tuple(s.shape) for s in saved], [tuple(v.shape) for v in own]
        if shapes != expected:
            raise ValueError(
                f"this state is of a Keras optimizer with variables of shapes {shapes}; this one has {expected}"
            )
        for variable, value in zip(own, saved, strict=True):
            variable.assign(value)
