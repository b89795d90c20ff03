"""Random numbers on the samples' own device, from generators that a trick owns and saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class Draws:
    """One generator for each device that asks, all from the seed of the trick's own in the game.

    What is drawn for images would be slow to draw on the CPU and to copy. A generator on a device makes the host wait
    for nothing; only saving it copies its state.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._generators: dict[str, torch.Generator] = {}
        self._saved: dict[str, torch.Tensor] = {}

    def start(self, generator: torch.Generator) -> None:
        """Begins where `game.generator(trick)` would."""
        self._seed = generator.initial_seed()
        self._generators.clear()
        self._saved.clear()

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of that device."""
        name = str(device)
        if name not in self._generators:
            self._generators[name] = torch.Generator(device).manual_seed(self._seed)
            if name in self._saved:
                self._generators[name].set_state(self._saved.pop(name))
        return self._generators[name]

    def state_dict(self) -> dict[str, Any]:
        """The seed, and the state of each device's generator."""
        used = {name: generator.get_state() for name, generator in self._generators.items()}
        return {"seed": self._seed, "states": self._saved | used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; a device that is not in it begins at the seed."""
        self._seed = state["seed"]
        self._generators.clear()
        self._saved = {name: saved.cpu() for name, saved in state["states"].items()}
