"""See the package docstring in README."""
