"""Random songs are songs, and a function of their number."""

import torch

from model.bench.random_songs import make_songs

from .test_bench import TINY


def test_a_song_does_not_depend_on_its_company() -> None:
    both, one = make_songs(TINY, [48, 32], [3, 5], [7, 8]), make_songs(TINY, [32], [5], [8])
    assert torch.equal(both.latents_BTC[1, :32], one.latents_BTC[0])
    assert torch.equal(both.semantic_tokens_BT[1, :32], one.semantic_tokens_BT[0])
    assert torch.equal(both.lyric_ids_BL[1], one.lyric_ids_BL[0])
    assert not torch.equal(both.prompts_BNC[0], one.prompts_BNC[0])
