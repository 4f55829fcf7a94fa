"""What two real ranks send: reduced to the rank that needs them, gradients take half the bytes, and nothing changes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..processes import run_ranks
from ..wire_process import WORLD_SIZE


@pytest.mark.slow
def test_gradients_reduced_to_one_rank_take_half_the_bytes_and_give_the_same_weights(
    dataset: Path, tmp_path: Path
) -> None:
    run_ranks("wire_process.py", dataset, tmp_path, WORLD_SIZE, 1)
    for rank in range(WORLD_SIZE):
        split, whole = (load_file(tmp_path / f"{name}_{rank}.safetensors") for name in ("reduce", "allreduce"))
        for key in whole:
            if not key.startswith("bytes/"):
                assert torch.equal(split[key], whole[key]), key
        sent = {name: int(found["bytes/allreduce_"]) for name, found in (("split", split), ("whole", whole))}
        reduced = int(split["bytes/reduce_"])
        assert "bytes/reduce_" not in whole
        assert reduced > 100_000
        # An all-reduce sends a tensor twice, there and back; what else is added up are losses and counts.
        assert reduced + 2 * sent["split"] < 0.51 * 2 * sent["whole"], (reduced, sent)
