"""Way in 3: a training log, in whatever form it was written, read as series and judged."""

from stabilgan.diagnosis.log.diagnose import diagnose_log

__all__ = ["diagnose_log"]
