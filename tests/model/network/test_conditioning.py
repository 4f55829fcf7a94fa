"""Tests of model/network/conditioning.py."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from model.network.conditioning import PADDING, LyricEmbedding
from model.network.config import ConditionsConfig, ModelConfig
from model.network.song_model import SongModel


def test_sections_and_sentences_by_hand(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    embed = LyricEmbedding(tiny_config.conditions, 8)  # 1, 2: tags; 3: comma; 4: period; 4 sentence rows
    symbols, sentences = embed.symbols.weight, embed.sentences.weight
    ids = [5, 1, 6, 4, 7, 3, 8, 4, 9, 4, 10, 2, 11, PADDING]
    expected = [
        symbols[5] + sentences[1],  # before any tag: no section, first sentence
        2 * symbols[1],
        symbols[6] + symbols[1] + sentences[1],
        2 * symbols[4],
        symbols[7] + symbols[1] + sentences[2],
        2 * symbols[3],
        symbols[8] + symbols[1] + sentences[2],  # a comma ends neither section nor sentence
        2 * symbols[4],
        symbols[9] + symbols[1] + sentences[3],
        2 * symbols[4],
        symbols[10] + symbols[1] + sentences[3],  # the fourth sentence shares the last row
        2 * symbols[2],
        symbols[11] + symbols[2] + sentences[1],
        torch.zeros(8),
    ]
    assert_close(embed(torch.tensor([ids]))[0], torch.stack(expected))


def test_sentences_count_before_the_first_tag(tiny_config: ModelConfig) -> None:
    embed = LyricEmbedding(tiny_config.conditions, 8)
    found = embed(torch.tensor([[4, 5]]))  # a period, then a sound
    assert_close(found[0, 1], embed.symbols.weight[5] + embed.sentences.weight[2])


def test_lyrics_match_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")
    config = ConditionsConfig(
        vocabulary_size=34, tag_ids=tuple(range(27, 34)), comma_id=25, period_id=26, max_sentences=4
    )
    embed = LyricEmbedding(config, 48)
    embed.load_state_dict(
        {
            "symbols.weight": parts["lyric_sum/w/output_proj.weight"],
            "sentences.weight": parts["lyric_sum/w/sentence_idx_in_structure_emb.weight"],
        }
    )
    real = torch.arange(30) < parts["lyric_sum/len"][:, None]
    found = embed(parts["lyric_sum/ids"].masked_fill(~real, PADDING))
    assert_close(found, parts["lyric_sum/embeds"], rtol=0, atol=1e-6)


def test_symbol_zero_never_trains(tiny_config: ModelConfig) -> None:
    embed = LyricEmbedding(tiny_config.conditions, 8)
    embed(torch.tensor([[0, 0, 5]])).square().sum().backward()
    assert embed.symbols.weight.grad is not None
    assert not embed.symbols.weight.grad[0].any()
    assert embed.symbols.weight.grad[5].any()


def test_prefix_without_padding_holds_only_what_is_there(make_model: Callable[..., SongModel]) -> None:
    conditioner = make_model().conditioner
    ids = torch.tensor([[1, 5, 6], [2, 7, PADDING]])
    prefix = conditioner(ids, torch.tensor([3, 2]), torch.randn(2, 4, 3), torch.tensor([0, 2]))
    assert prefix.valid_BX.tolist() == [
        [False, False, False, False, True, True, True],
        [True, True, False, False, True, True, False],
    ]
    assert_close(prefix.vectors_BXD[0, 4:], conditioner.embed_lyrics(ids)[0])


def test_fixed_padding_lets_the_lm_see_zeros(tiny_config: ModelConfig, make_model: Callable[..., SongModel]) -> None:
    conditions = replace(tiny_config.conditions, padding="fixed", null_lyrics="padding_symbol")
    conditioner = make_model(replace(tiny_config, conditions=conditions)).conditioner
    ids = torch.tensor([[1, 5], [6, 7]])
    prefix = conditioner(ids, torch.tensor([2, 0]), torch.randn(2, 4, 3), torch.tensor([3, 0]))
    assert prefix.valid_BX.shape == (2, 6 + 10)
    assert prefix.valid_BX.all()
    has_value = prefix.vectors_BXD.any(dim=-1)
    assert has_value[0].nonzero().flatten().tolist() == [0, 1, 2, 6, 7]
    assert has_value[1].nonzero().flatten().tolist() == [6]  # null lyrics: one sentence embedding, in released weights
    assert_close(prefix.vectors_BXD[1, 6], conditioner.embed_lyrics.sentences.weight[1])


def test_null_lyrics_need_no_column(tiny_config: ModelConfig, make_model: Callable[..., SongModel]) -> None:
    conditions = replace(tiny_config.conditions, null_lyrics="padding_symbol")
    conditioner = make_model(replace(tiny_config, conditions=conditions)).conditioner
    none = torch.zeros(1, dtype=torch.int64)
    prefix = conditioner(torch.zeros(1, 0, dtype=torch.int64), none, torch.zeros(1, 0, 3), none)
    assert prefix.valid_BX.tolist() == [[True]]
    assert_close(prefix.vectors_BXD[0, 0], conditioner.embed_lyrics.sentences.weight[1])
