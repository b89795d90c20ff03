"""Shared settings: one thread (these nets are tiny), and the real data where there are any."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
collect_ignore = ["plugins/shaky"]  # a package to build, with a module that can't be imported


@pytest.fixture(scope="session")
def data_dir() -> Path:
    root = os.environ.get("STABILGAN_DATA")
    if not root:
        pytest.skip("STABILGAN_DATA is not set: no real data")
    return Path(root)
