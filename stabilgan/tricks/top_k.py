"""Top-k: G learns only from the fakes that D takes for the most real."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan.game import STEP, Critic, Game, Trick


def top_k_weights(scores: Tensor, k: int) -> Tensor:
    """What each sample's gradient is multiplied by: N/k for the k highest scores, 0 for the others.

    The mean of a loss over the batch then has the gradient of its mean over the k best.

    Args:
        scores: (N, ...), D's scores; the patches of one sample count with their mean.
        k: how many are kept, in 1..N. Exactly so many are, also where scores are equal.

    Returns:
        (N,), of the scores' dtype.

    >>> top_k_weights(torch.tensor([0.3, -1.0, 2.0, 0.1]), 2)
    tensor([2., 0., 2., 0.])
    """
    best = scores.detach().reshape(len(scores), -1).mean(1).topk(k).indices
    return scores.new_zeros(len(scores)).scatter_(0, best, len(scores) / k)


class TopK(Trick):
    """Lets only the best-scored fakes of a batch teach G, the more selectively the longer training runs.

    In G's turn the scores stay as they are, but those of all but the k best pass no gradient (Sinha et al. 2020,
    arXiv:2002.06224, Sec. 3). The gradient of the kept ones is scaled by N/k, so that a loss that is a mean over the
    batch is exactly the mean over the k best. k starts at the whole batch and is multiplied by `decay` after each
    epoch, down to `share` of the batch. A batch is what is scored in one call: each micro-batch and each rank picks its
    own k.

    Args:
        share: the least share of the batch that is kept, above 0 and up to 1, where the trick does nothing; k is
            rounded up. The paper's is ½.
        decay: by what k shrinks after each epoch, in (0, 1]. The paper's is 0.99: ½ is reached after 69 epochs.
        epoch: steps of G that count as one epoch, which a game can't know. The default, 782, is of no paper: it is one
            pass through 50,000 samples in batches of 64.

    Raises:
        ValueError: an option outside its range.
        TypeError: D returns no tensor of scores.
    """

    name = "top_k"
    order = STEP + 1  # outside `unrolled`, whose look-ahead D learns from all fakes
    changes = "a term for G"
    when = (
        "Bad samples drag G away from the modes that it has found. It can only sharpen what D ranks well: it does not "
        "bring back modes that G has dropped."
    )
    off: ClassVar = {"share": 1.0}
    limits: ClassVar = {
        "D with several outputs": "TypeError at G's first turn, since what D returns is not known at attach: there is "
        "no one score to rank by"
    }
    source = "Sinha et al. 2020, arXiv:2002.06224, Sec. 3"

    def __init__(self, share: float = 0.5, decay: float = 0.99, epoch: int = 782) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"top_k: share is {share}; expected more than 0 and at most 1")
        if not 0 < decay <= 1:
            raise ValueError(f"top_k: decay is {decay}; expected more than 0 and at most 1")
        if epoch < 1:
            raise ValueError(f"top_k: epoch is {epoch}; expected 1 step or more")
        self.share, self.decay, self.epoch = share, decay, epoch

    def kept(self, n: int, steps: int) -> int:
        """How many of n fakes teach G after so many steps of G.

        >>> [TopK(epoch=10).kept(100, steps) for steps in (0, 9, 10, 20, 10_000)]
        [100, 100, 99, 99, 50]
        """
        share = max(self.share, self.decay ** (steps // self.epoch))
        return math.ceil(share * n - 1e-9)  # not one more where share * n is whole but for rounding

    def critic(self, d: Critic, game: Game) -> Critic:
        if max(self.share, self.decay ** (game.steps["g"] // self.epoch)) == 1:
            return d

        def best(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            out = d(x, *args, **kwargs)
            if not isinstance(out, Tensor):
                raise TypeError(
                    f"top_k ranks fakes by D's scores, but D returns a {type(out).__name__}; expected a tensor. Let D "
                    "return its scores alone, or play without top_k"
                )
            if not (torch.is_grad_enabled() and x.requires_grad and out.requires_grad):  # nothing of G's, or real
                return out
            weights = top_k_weights(out, self.kept(len(out), game.steps["g"])).view(-1, *[1] * (out.dim() - 1))
            out.register_hook(lambda gradient: gradient * weights)
            return out

        return best
