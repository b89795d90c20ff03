"""A user's files as tensors, without running anything that is in them: images, arrays, tables, known data sets."""

from stabilgan.diagnosis.inputs.matching import matched
from stabilgan.diagnosis.inputs.reading import MINIMUM, load
from stabilgan.diagnosis.inputs.samples import Kind, Progress, Samples

__all__ = ["MINIMUM", "Kind", "Progress", "Samples", "load", "matched"]
