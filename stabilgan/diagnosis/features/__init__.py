"""Samples as features in which distances mean something: pixels, a classifier's, Inception's, one's own."""

from stabilgan.diagnosis.features.embedding import embed
from stabilgan.diagnosis.features.result import Features
from stabilgan.diagnosis.features.saved import save

__all__ = ["Features", "embed", "save"]
