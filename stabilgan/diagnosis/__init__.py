"""Diagnosis: evidence from samples, from a model or from a log, the findings that follow, and one report of them."""

from stabilgan.diagnosis.findings import FAILURES, Diagnosis, Evidence, Failure, Finding, InputError

__all__ = ["FAILURES", "Diagnosis", "Evidence", "Failure", "Finding", "InputError"]
