"""Feature matching: G's samples are to look to D, on average, as real ones do."""

from __future__ import annotations

from torch import Tensor

from stabilgan.tricks._features import FeatureTerm


def feature_distance(fake: Tensor, real: Tensor) -> Tensor:
    """‖E f(x) - E f(G(z))‖²: the squared distance of the two batches' mean features.

    Args:
        fake, real: (N, ...) and (M, ...), features of the same shape; N and M may differ.

    Returns:
        A scalar: the sum over features, not their mean.

    >>> feature_distance(Tensor([[1.0, 0.0], [3.0, 0.0]]), Tensor([[5.0, 4.0]])).item()  # (2, 0) to (5, 4)
    25.0
    """
    return (fake.mean(0) - real.mean(0)).square().sum()


class FeatureMatching(FeatureTerm):
    """Pulls the mean of D's features over the fakes to their mean over the data, a goal that does not run away.

    Adds weight · ‖E f(x) - E f(G(z))‖² to G's loss, f being what D's last layer is given (Salimans et al. 2016,
    arXiv:1606.03498, Sec. 3.1). In the paper this is G's whole loss; here it is a term beside the loop's own, which a
    loop makes the whole by not adding its own. Real features are of the batch that D saw last, by D as it is now.

    Args:
        weight: at least 0. The paper's is 1.
        layer: the name of the linear or convolutional layer of D whose input is f, such as "4"; D's last one if None.
        every: ask on every n-th step, then n-fold.

    Raises:
        ValueError: an option outside its range; D has no such layer.
        RuntimeError: the loop never calls `game.real`, or not the generator that was attached.
    """

    name = "feature_matching"
    when = (
        "G chases D's latest whim and neither settles. It matches means alone: several modes can have the mean of one, "
        "so it does not stop collapse by itself."
    )
    source = "Salimans et al. 2016, arXiv:1606.03498, Sec. 3.1"

    def compare(self, fake: Tensor, real: Tensor) -> Tensor:
        return feature_distance(fake, real)
