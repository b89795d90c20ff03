"""The promises of the design, a function each; `PROMISES` has them all, in the order in which reports show them."""

from stabilgan.testing.promise import Promise
from stabilgan.testing.promises import acting, drawing, judging, loops, machinery, samples, saving

PROMISES: tuple[Promise, ...] = (
    *acting.PROMISES,
    *judging.PROMISES,
    *loops.PROMISES,
    *drawing.PROMISES,
    *saving.PROMISES,
    *samples.PROMISES,
    *machinery.PROMISES,
)
