"""What every test may count on: one thread, a fixed seed, a closed network, no window, no leftovers.

Environment variables are set before torch is imported, because it reads them only then; child processes of a test, and
the kernels of the notebooks, inherit them. The drawing backend is none of them: notebooks need their own.
"""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib
import numpy as np
import pytest
import torch

from ddetr_lab.ops.build import BuildError, compiler_command

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)
matplotlib.use("Agg")

# derandomize: the same examples on every machine. A run that finds something new must find it again.
hypothesis.settings.register_profile("ddetr_lab", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ddetr_lab")


def compiler_version() -> str:
    """Return what the C++ compiler says of itself; "" where there is none, or one that ends with an error."""
    try:
        said = subprocess.run([*compiler_command(), "--version"], capture_output=True, text=True, check=False)
    except BuildError:
        return ""
    return said.stdout if said.returncode == 0 else ""


@pytest.fixture(autouse=True)
def fixed_start() -> Iterator[None]:
    """Start each test from seed 0, and undo what it changed globally in torch and matplotlib."""
    torch.manual_seed(0)
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # the setter alone takes seconds the first time
        torch.use_deterministic_algorithms(deterministic)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True, scope="session")
def closed_network() -> Iterator[None]:
    """Let sockets reach this machine only: a test that needs the network would fail for a reader on a train."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def refuse_remote(family: int, address: Any) -> None:
        if family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"A test tried to reach {address[0]}: tests do not use the network.")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse_remote(self.family, address)
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        refuse_remote(self.family, address)
        return connect_ex(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        yield


@pytest.fixture
def generator() -> torch.Generator:
    """A torch generator with a seed of its own, for inputs that must not depend on what a test drew before."""
    return torch.Generator().manual_seed(20201004)


@pytest.fixture
def rng() -> np.random.Generator:
    """A numpy generator with a seed of its own."""
    return np.random.default_rng(20201004)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
