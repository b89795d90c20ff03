"""A user's generator and discriminator, ready to be asked: built from their code or read from a program file.

Code that the user names (`file.py:make`) is run, as that is what naming it asks for. Data and weights never are.
"""

from stabilgan.diagnosis.models.discriminator import Discriminator, load_discriminator
from stabilgan.diagnosis.models.generator import Generator, load_generator

__all__ = ["Discriminator", "Generator", "load_discriminator", "load_generator"]
