"""Channel statistics, whole and in parts."""

import json

import numpy as np
import pytest

from shards.latent_statistics import LatentStatistics
from shards.schema import ShardError


def test_parts_give_the_mean_and_deviation_of_the_whole() -> None:
    latents = np.random.default_rng(0).normal(3, 2, (5000, 4)).astype(np.float16)
    parts = []
    for part in (latents[:1234], latents[1234:]):
        parts.append(LatentStatistics(4))
        parts[-1].add(part)
    total = LatentStatistics(4)
    for statistics in parts:
        total.merge(LatentStatistics.from_json(json.loads(json.dumps(statistics.to_json()))))
    np.testing.assert_allclose(total.mean(), latents.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(total.std(), latents.astype(np.float64).std(axis=0), rtol=1e-9)
    assert total.num_frames == 5000


def test_no_frames_have_no_mean() -> None:
    with pytest.raises(ShardError, match="no frames"):
        LatentStatistics(4).mean()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"num_frames": 1, "sum": [1.0], "sum_of_squares": [1.0, 2.0]},
        {"num_frames": "1", "sum": [1.0], "sum_of_squares": [1.0]},
        {"num_frames": 1, "sum": [float("nan")], "sum_of_squares": [1.0]},
    ],
)
def test_damaged_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ShardError, match="latent statistics"):
        LatentStatistics.from_json(record)
