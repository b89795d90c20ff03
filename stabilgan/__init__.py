"""stabilgan: makes GAN training stable and shows when it isn't."""

from stabilgan._version import __version__

__all__ = ["__version__"]
