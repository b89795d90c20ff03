"""`python -m stabilgan`."""

from stabilgan.cli import main

main(prog_name="stabilgan")
