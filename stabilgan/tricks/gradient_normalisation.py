"""Gradient normalisation: D's score is divided by how steep D is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stabilgan import checks, host, surgery
from stabilgan.game import Cost, Game, Seen, Trick

Forward = Callable[..., Any]


def normalised(scores: Tensor, x: Tensor) -> Tensor:
    """D / (‖∇ₓD‖ + |D|), sample by sample: between -1 and 1.

    Args:
        scores: D's raw scores of `x`, any shape whose first dimension is the batch. Patches of one sample share the
            norm of the gradient of their sum.
        x: (N, ...), what they were computed from, requiring gradients.

    Returns:
        Of the scores' shape and type; can be differentiated.

    >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> round(normalised(x.square().sum(1) / 2, x).item(), 4)  # 12.5 / (5 + 12.5)
    0.7143
    """
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    slope = torch.linalg.vector_norm(host.full_precision(gradient).reshape(len(x), -1), dim=1)
    raw = host.full_precision(scores)
    size = slope.view(-1, *[1] * (raw.dim() - 1)) + raw.abs()
    out: Tensor = raw / size.clamp_min(torch.finfo(size.dtype).eps)
    return out.to(scores.dtype)


class GradientNormalisation(Trick):
    """Bounds how steep D can be, and how large its scores, sample by sample and without a penalty.

    Whoever calls D gets D(x) / (‖∇D(x)‖ + |D(x)|) in the place of D(x), in both players' turns (Wu et al. 2021,
    arXiv:2109.02235). Where D is piecewise linear in x, the slope of that is at most 1 within each piece. The
    scores lie between -1 and 1: with the hinge loss D never quite reaches its margin.

    D's forward pass is wrapped and runs uncompiled, since it is differentiated twice; `game.detach()` takes the wrapper
    off. x is the first floating-point tensor that D is called with. Patches of one sample share the norm of the
    gradient of their sum, as in the authors' code: each stays between -1 and 1, but the bound on the slope is then that
    of no patch. BatchNorm in D mixes samples and undoes the bound. Outside training (`torch.no_grad`) D answers the
    same.
    """

    name = "gradient_normalisation"
    changes = "what D is"
    when = "D's gradients explode or vanish and a penalty's weight is hard to find: there is nothing to set."
    cost = Cost(second_order=3)  # in each of D's three calls: real, fake and G's turn
    needs_logits = True
    limits: ClassVar = {
        "compile": "D's forward runs uncompiled, since it is differentiated twice; G's stays compiled",
        "Keras": "refused at attach: its models are called past the forward that is wrapped",
        "DataParallel": "refused at attach: its copies would all call the first one",
    }
    source = "Wu et al. 2021, arXiv:2109.02235"
    conflicts: ClassVar = dict.fromkeys(
        ("r1", "r2", "wgan_gp", "zero_gp", "dragan"),
        "D's slope is bounded already, and a penalty on the normalised slope takes third derivatives of D",
    ) | {"weight_clipping": "the normalised score does not depend on how large D's last weights are"}

    def __init__(self) -> None:
        self._on = False
        self._before: dict[str, Forward | None] = {}
        self._put: dict[str, Forward] = {}

    def setup(self, game: Game) -> None:
        if host.keras_variables(game.d) is not None:
            raise ValueError(
                f"{self.name}: D is a Keras model, which is called past the forward that this trick wraps; expected a "
                "torch.nn.Module of your own or of torch's"
            )
        if isinstance(game.called_d, nn.DataParallel):
            raise ValueError(
                f"{self.name}: D is wrapped in DataParallel, whose copies would all call the first one; expected "
                "DistributedDataParallel"
            )
        own = vars(game.d)
        # Accelerate puts a forward with autocast there and keeps the one before, which is called without autocast.
        self._before = {name: own.get(name) for name in ("forward", "_original_forward") if name in own}
        self._before.setdefault("forward", None)
        for name, forward in self._before.items():
            own[name] = self._put[name] = MethodType(self._around(game.d, forward), game.d)
        self._on = True

    def teardown(self, game: Game) -> None:
        self._on = False  # where something was put around the wrapper since, it stays and does nothing
        own = vars(game.d)
        for name, forward in self._before.items():
            if own.get(name) is self._put[name]:
                del own[name]
                if forward is not None:
                    own[name] = forward

    def _around(self, d: nn.Module, given: Forward | None) -> Forward:
        """A method in the place of D's forward; a copy of D takes it along, bound to itself."""

        @host.uncompiled
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if given is None:
                inner: Forward = MethodType(type(module).forward, module)
            elif isinstance(given, MethodType) and given.__self__ is d:
                inner = MethodType(given.__func__, module)
            else:
                inner = given
            return self._score(inner, args, kwargs) if self._on else inner(*args, **kwargs)

        return forward

    def _score(self, inner: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """What D answers to a call."""
        called: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        found = [(at, value) for at, value in called if isinstance(value, Tensor) and value.is_floating_point()]
        if not found:
            raise TypeError(f"{self.name}: D was called without a floating-point tensor; expected the samples")
        (at, x), asked = found[0], torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            if asked and x.requires_grad:
                x = x.view_as(x)  # so that D's slope is asked for here, and no hook of the samples hears of it
            else:
                x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            seen = Seen(x, (), args, kwargs, at).call(x)
            scores = inner(*seen[0], **seen[1])
            if not isinstance(scores, Tensor):
                raise TypeError(f"{self.name}: D returns a {type(scores).__name__}; expected a tensor of scores")
            if surgery.passed_sigmoid(scores):
                raise ValueError(f"{self.name} {checks.SIGMOID}")
            out = normalised(scores, x)
        return out if asked else out.detach()
