"""What was read, kept in bounded memory: columns that thin themselves out, and runs told apart by their steps."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stabilgan.diagnosis.families import Series

CAPACITY = 1 << 16
"""Values a column keeps; then every second one is let go, evenly over the whole log."""
LANES = 16
"""Runs that are told apart in one file."""
RECENT = 64
"""Rows after which a run that was not written to counts as ended."""


class Column:
    """Steps and values of one column, evenly thinned; its extremes and its first NaN stay exact."""

    __slots__ = ("digits", "first_bad", "held", "highest", "lowest", "n", "steps", "stride", "values")

    def __init__(self) -> None:
        self.steps, self.values = array("q"), array("d")
        self.n, self.stride = 0, 1
        self.first_bad: int | None = None
        self.lowest, self.highest = (math.inf, 0), (-math.inf, 0)
        self.held = False
        self.digits: int | None = None

    def push(self, step: int, value: float) -> None:
        """One value; what is between two kept ones still counts for the extremes."""
        n = self.n
        self.n = n + 1
        if value - value != 0 and self.first_bad is None:  # NaN or infinity
            self.first_bad = step
        if self.stride > 1:
            if value < self.lowest[0] and value != -math.inf:
                self.lowest = (value, step)
            if value > self.highest[0] and value != math.inf:
                self.highest = (value, step)
            if n % self.stride:
                return
        self.steps.append(step)
        self.values.append(value)
        if len(self.values) >= CAPACITY:
            self._thin()

    def extend(self, steps: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Many at once, fewer than half the capacity; the same as pushing one by one."""
        finite = np.isfinite(values)
        if self.first_bad is None and not finite.all():
            self.first_bad = int(steps[int(np.argmin(finite))])
        if self.stride > 1:
            self._extremes(steps[finite], values[finite])
        kept = slice(-self.n % self.stride, None, self.stride)
        self.n += len(values)
        self.steps.frombytes(np.ascontiguousarray(steps[kept]).tobytes())
        self.values.frombytes(np.ascontiguousarray(values[kept]).tobytes())
        if len(self.values) >= CAPACITY:
            self._thin()

    def _thin(self) -> None:
        if self.stride == 1:
            values, steps = np.array(self.values), np.array(self.steps)
            finite = np.isfinite(values)
            self._extremes(steps[finite], values[finite])
        self.steps, self.values = self.steps[::2], self.values[::2]
        self.stride *= 2

    def _extremes(self, steps: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        if len(values):
            low, high = int(values.argmin()), int(values.argmax())
            if values[low] < self.lowest[0]:
                self.lowest = (float(values[low]), int(steps[low]))
            if values[high] > self.highest[0]:
                self.highest = (float(values[high]), int(steps[high]))

    def series(self, label: str) -> Series:
        steps, values = np.array(self.steps, dtype=np.int64), np.array(self.values, dtype=np.float64)
        if self.stride > 1:
            for value, step in (self.lowest, self.highest):
                if math.isfinite(value):
                    at = int(np.searchsorted(steps, step))
                    if at < len(steps) and steps[at] == step:
                        values[at] = value
                    else:
                        steps, values = np.insert(steps, at, step), np.insert(values, at, value)
        return Series(steps, values, label, self.n, self.first_bad, self.held, self.digits)


class Run:
    """One run: its columns, and where it stands."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.columns: dict[str, Column] = {}
        self.key: tuple[int, int] | None = None
        self.stride: tuple[int, int] | None = None
        self.step, self.base, self.rows, self.used = -1, 0, 0, 0
        self.here: set[str] = set()
        self.suspended = self.by_epochs = False

    def fits(self, key: tuple[int, int], names: Sequence[str]) -> bool:
        if self.key is None or key > self.key:
            return True
        # Within one epoch there may be many rows; at one iteration there is one of each column.
        return key == self.key and (self.by_epochs or self.here.isdisjoint(names))

    def expects(self, key: tuple[int, int]) -> bool:
        if self.key is None or self.stride is None:
            return False
        return (key[0] - self.key[0], key[1] - self.key[1]) == self.stride

    def move(self, key: tuple[int, int], total: int) -> None:
        """To a new place, (epoch, iteration); steps go on over epochs whose iterations begin anew."""
        old = self.key
        if old is None:
            self.base = key[0] * total if key[0] > 1 else 0
        elif key != old:
            if key[0] > old[0] and key[1] <= old[1]:
                usual = self.stride[1] if self.stride and self.stride[1] > 0 else 1
                self.base += total * (key[0] - old[0]) if total else old[1] + usual
            delta = (key[0] - old[0], key[1] - old[1])
            if delta[1] > 0 or self.stride is None:
                self.stride = delta
        if key != old:
            self.here = set()
        self.key, self.step = key, max(self.base + key[1], self.step)

    def put(self, names: Sequence[str], values: Sequence[float]) -> None:
        step = self.step
        for name, value in zip(names, values, strict=True):
            column = self.columns.get(name)
            if column is None:
                column = self.columns[name] = Column()
            column.push(step, value)


class Store:
    """Takes rows in the order of the file and sorts them into runs.

    A step that goes back begins a new run, or goes on with an earlier one where its rows come in between: two processes
    write into one file.
    """

    def __init__(self) -> None:
        self.runs = [Run(0)]
        self.run = self.runs[0]
        self.rows = self.restarts = 0
        self.interleaved = self.placed = self.crowded = False
        self.only_epochs = True

    def add(
        self,
        names: Sequence[str],
        values: Sequence[float],
        epoch: int | None = None,
        iteration: int | None = None,
        total: int = 0,
    ) -> None:
        """One row: values of the columns `names`, at a place where it says one."""
        self.rows += 1
        run = self.run
        if iteration is None and (epoch is None or (self.placed and not self.only_epochs)):
            # Where nothing says a place, rows are counted: a column that comes again begins a new one.
            if not self.placed and (run.step < 0 or not run.here.isdisjoint(names)):
                run.step += 1
                run.here = set()
            run.here.update(names)
            run.put(names, values)
            run.rows += 1
            return
        if iteration is None:
            key = (0, epoch or 0)  # epochs are the steps
        else:
            self.only_epochs = False
            key = (epoch or 0, iteration)
        if not self.placed and run.rows:  # rows before the first place
            run.step = min(run.step, key[1])
        self.placed = True
        run.by_epochs = self.only_epochs
        if len(self.runs) > 1 or not run.fits(key, names):
            run = self._choose(key, names)
        run.move(key, total)
        run.here.update(names)
        run.used = self.rows
        run.rows += 1
        run.put(names, values)

    def add_block(
        self,
        names: Sequence[str],
        values: NDArray[np.float64],
        epoch: NDArray[np.float64] | None,
        iteration: NDArray[np.float64] | None,
        total: NDArray[np.float64] | None,
    ) -> bool:
        """Many rows of the same columns at once; False, and nothing is taken, where they have to go one by one.

        Args:
            values: (n, len(names)).
            epoch, iteration, total: (n,) each, or None.
        """
        run, n = self.run, len(values)
        if len(self.runs) > 1 or iteration is None or run.key is None or run.stride is None or run.by_epochs:
            return False
        first = np.zeros(n) if epoch is None else epoch
        if not (np.isfinite(first).all() and np.isfinite(iteration).all()):
            return False
        first, second = first.astype(np.int64), iteration.astype(np.int64)
        before, old = np.concatenate([[run.key[0]], first[:-1]]), np.concatenate([[run.key[1]], second[:-1]])
        anew = first > before
        if ((first < before) | (~anew & (second <= old))).any():
            return False
        # Where iterations begin anew with an epoch, steps go on, as in `move`.
        back = anew & (second <= old)
        if back.any():
            if total is None or not (total == total[0]).all() or not np.isfinite(total[0]):
                return False
            base = run.base + np.cumsum(np.where(back, int(total[0]) * (first - before), 0))
        else:
            base = np.full(n, run.base)
        steps = np.maximum.accumulate(np.maximum(base + second, run.step))
        run.base, run.key, run.step = int(base[-1]), (int(first[-1]), int(second[-1])), int(steps[-1])
        run.here = set(names)
        self.rows += n
        run.used = self.rows
        run.rows += n
        for i, name in enumerate(names):
            run.columns.setdefault(name, Column()).extend(steps, values[:, i])
        return True

    def _choose(self, key: tuple[int, int], names: Sequence[str]) -> Run:
        alive = [r for r in self.runs if self.rows - r.used <= RECENT and r.fits(key, names)]
        alive.sort(key=lambda r: (r.suspended, not r.expects(key), r.used))
        exact = [r for r in alive if r.expects(key)]
        if exact and (not self.run.fits(key, names) or not self.run.expects(key) or not exact[0].suspended):
            chosen = exact[0]
        elif self.run.fits(key, names):
            chosen = next((r for r in alive if not r.suspended), self.run)
        elif alive:
            chosen = alive[0]
        elif len(self.runs) < LANES:
            chosen = Run(len(self.runs))
            self.run.suspended = True
            self.restarts += 1
            self.runs.append(chosen)
        else:
            self.crowded = True
            self.run.key = None
            return self.run
        if chosen.suspended:
            self.interleaved, chosen.suspended, self.run.suspended = True, False, False
        self.run = chosen
        return chosen
