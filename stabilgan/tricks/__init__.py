"""Tricks: one idea, one file."""
