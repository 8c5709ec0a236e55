"""Configurations that ask for far more memory than their weights take."""

import pytest
import torch

from ddetr_lab.checkpoint_memory import check_memory
from tests.tiny import tiny_config

WIDTH = 32  # of tiny_config


def test_a_few_gigabytes_are_always_fine() -> None:
    check_memory(tiny_config(num_queries=4 * 2**30 // (8 * WIDTH)), {}, "here")
    with pytest.raises(ValueError, match="asks for 4 GB of weights by num_queries = 16777217, d_model = 32, but the"):
        check_memory(tiny_config(num_queries=4 * 2**30 // (8 * WIDTH) + 1), {}, "here")


def test_large_weights_allow_a_model_of_four_times_their_size() -> None:
    weights = {"table": torch.empty(2 * 2**30, dtype=torch.float16, device="meta")}  # 4 GiB
    check_memory(tiny_config(num_queries=16 * 2**30 // (8 * WIDTH)), weights, "here")
    with pytest.raises(ValueError, match=r"the weights of here have 4.3 GB: one of these numbers is wrong"):
        check_memory(tiny_config(num_queries=16 * 2**30 // (8 * WIDTH) + 1), weights, "here")
