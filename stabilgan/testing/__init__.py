"""For the tests of tricks, the library's own and anyone's: the promises, small worlds, a loop written by hand."""

from stabilgan.testing.check import Report, Result, check_trick
from stabilgan.testing.promise import CONDITIONS, Broken, NotAsked, Promise, Refused, Subject
from stabilgan.testing.promises import PROMISES
from stabilgan.testing.refuse_sync import RefuseSync

__all__ = [
    "CONDITIONS",
    "PROMISES",
    "Broken",
    "NotAsked",
    "Promise",
    "RefuseSync",
    "Refused",
    "Report",
    "Result",
    "Subject",
    "check_trick",
]
