"""Tests of model/sampling/sampling.py and of the writer behind it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from model.bench.plain_loop import ConcatenatingBranch, RereadingBranch, write_song
from model.network.config import ConfigError, ModelConfig
from model.network.flow import integrate
from model.network.noise import Draws
from model.network.song_batch import SongBatch, count_blocks
from model.network.song_model import SongModel
from model.sampling.sampling import PRESETS, GeneratedSong, Opening, SamplingConfig, generate
from model.sampling.song_writer import SongWriter

MakeModel = Callable[..., SongModel]

FAST = SamplingConfig(max_frames=16, euler_steps=3, temperature=0.9, top_k=8, stop_at_eos=False)
LYRICS = [[1, 5, 6], [], [2, 7, 8, 4, 9, 3, 10]]
PROMPTS = [torch.randn(length, 3, generator=torch.Generator().manual_seed(length)) for length in (6, 2, 0)]


def assert_same(found: GeneratedSong, expected: GeneratedSong) -> None:
    assert found.semantic_tokens.tolist() == expected.semantic_tokens.tolist()
    assert found.ended == expected.ended
    assert_close(found.latents, expected.latents, rtol=1e-5, atol=1e-5)


# Networks in float64: the feedback of a random model amplifies float32 rounding, which depends on the batch, a lot.
@pytest.mark.parametrize("padding", ["none", "fixed"])
def test_a_song_comes_out_the_same_in_any_company(
    tiny_config: ModelConfig, make_model: MakeModel, padding: str
) -> None:
    model = make_model(replace(tiny_config, conditions=replace(tiny_config.conditions, padding=padding))).double()
    together = generate(model, LYRICS, PROMPTS, [5, 6, 7], FAST)
    for number, song in enumerate(together):
        (alone,) = generate(model, LYRICS[number : number + 1], PROMPTS[number : number + 1], [5 + number], FAST)
        assert_same(song, alone)
    assert len({tuple(song.semantic_tokens.tolist()) for song in together}) == 3


def test_songs_that_end_early_leave_the_others_alone(make_model: MakeModel) -> None:
    model = make_model().double()
    with torch.no_grad():  # make EOS likely enough that songs end in different blocks
        model.semantic_head.classify.bias[-1] += 2.0
    config = replace(FAST, max_frames=32, stop_at_eos=True)
    seeds = list(range(6))
    together = generate(model, LYRICS * 2, PROMPTS * 2, seeds, config)
    lengths = {len(song.semantic_tokens) for song in together}
    assert len(lengths) > 1
    assert {song.ended for song in together} == {"eos", "max_frames"} or max(lengths) < 32
    for number, song in enumerate(together):
        rows = slice(number % 3, number % 3 + 1)
        (alone,) = generate(model, LYRICS[rows], PROMPTS[rows], [seeds[number]], config)
        assert_same(song, alone)
        assert (song.semantic_tokens < model.config.eos_id).all()
        assert song.latents.shape == (len(song.semantic_tokens), 3)


def test_a_block_with_eos_is_neither_kept_nor_rendered(make_model: MakeModel) -> None:
    model = make_model()
    with torch.no_grad():
        model.semantic_head.classify.bias[-1] = 1e4
    model.dit.register_forward_pre_hook(lambda *_: pytest.fail("rendered a block that is thrown away"))
    (song,) = generate(model, [[1]], [torch.zeros(0, 3)], [0], replace(FAST, stop_at_eos=True))
    assert song.ended == "eos"
    assert song.semantic_tokens.shape == (0,)
    assert song.latents.shape == (0, 3)


def test_no_song_ends_before_its_shortest_length(make_model: MakeModel) -> None:
    model = make_model()
    with torch.no_grad():
        model.semantic_head.classify.bias[-1] = 1e4  # ends as soon as it may
    two_blocks = 2 * model.config.block_frames
    config = replace(FAST, stop_at_eos=True, min_frames=two_blocks, max_frames=4 * model.config.block_frames)
    (song,) = generate(model, [[1]], [torch.zeros(0, 3)], [0], config)
    assert song.ended == "eos"
    assert len(song.latents) == two_blocks
    assert (song.semantic_tokens < model.config.eos_id).all()


def test_generation_agrees_with_the_training_pass(
    make_model: MakeModel, make_batch: Callable[..., SongBatch], draw_for: Callable[..., Draws]
) -> None:
    """Feed a greedy song back: without guidance, each token is the most likely one of the teacher-forced pass."""
    model = make_model()
    config = replace(FAST, temperature=0.0, cfg_scale=1.0)
    (song,) = generate(model, LYRICS[:1], PROMPTS[:1], [0], config)
    batch = SongBatch(
        keys=("song",),
        semantic_tokens_BT=song.semantic_tokens[None],
        latents_BTC=song.latents[None],
        num_frames_B=torch.tensor([16]),
        lyric_ids_BL=torch.tensor(LYRICS[:1]),
        num_lyrics_B=torch.tensor([3]),
        prompts_BNC=PROMPTS[0][None],
        num_prompt_frames_B=torch.tensor([6]),
    )
    body = model.embed_body(batch.semantic_tokens_BT, batch.latents_BTC)
    with torch.no_grad():
        states = model.run_lm(model.encode_conditions(batch, draw_for(batch)), body, count_blocks(batch, model.config))
        predicted = model.semantic_head(states.predictors_BTD[0, :-1]).argmax(dim=-1)
    assert predicted.tolist() == song.semantic_tokens.tolist()


@pytest.mark.parametrize("guidance", ["hidden", "global"])
def test_guidance_mixes_velocities_or_finished_paths(
    make_model: MakeModel, guidance: Literal["hidden", "global"]
) -> None:
    model = make_model()
    noise = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    config = replace(FAST, max_frames=4, guidance=guidance, cfg_scale=2.0, dit_cfg_scale=3.0)
    seen: list[SongWriter] = []
    (song,) = generate(model, LYRICS[:1], PROMPTS[:1], [0], config, noise=lambda *_: noise[0], observe=seen.append)
    conditional, null, final = seen[0].logits
    assert_close(final, null + 2.0 * (conditional - null))

    tokens, (hidden, null_hidden) = seen[0].tokens_AP, seen[0].state_RD

    def velocity(point: Tensor, time: float, semantic: Tensor, state: Tensor) -> Tensor:
        return model.dit(point, torch.zeros(1, 4, 3), semantic, state[None], torch.tensor([time]))

    def mixed_velocity(point: Tensor, time: float) -> Tensor:
        nothing = velocity(point, time, torch.zeros_like(semantic), torch.zeros_like(hidden))
        return nothing + 3.0 * (velocity(point, time, semantic, hidden) - nothing)

    with torch.inference_mode():
        semantic = model.semantic_table(tokens)
        if guidance == "hidden":
            expected = integrate(mixed_velocity, noise, 3)
        else:
            ends = [
                integrate(partial(velocity, semantic=semantic, state=state), noise, 3)
                for state in (hidden, null_hidden)
            ]
            expected = ends[1] + 3.0 * (ends[0] - ends[1])
    assert_close(song.latents, expected[0], rtol=1e-4, atol=1e-4)


def test_latents_come_back_in_the_scale_of_the_data(make_model: MakeModel) -> None:
    plain, scaled = make_model(), make_model()
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 3.0, 2.0])
    scaled.set_latent_statistics(mean, std)
    config = replace(FAST, max_frames=8)
    (expected,) = generate(plain, LYRICS[:1], PROMPTS[:1], [0], config)
    (found,) = generate(scaled, LYRICS[:1], [PROMPTS[0] * std + mean], [0], config)
    assert found.semantic_tokens.tolist() == expected.semantic_tokens.tolist()
    assert_close(found.latents, expected.latents * std + mean, rtol=1e-4, atol=1e-4)


def test_settings_reach_the_sampler(make_model: MakeModel) -> None:
    model = make_model()

    def tokens(**changes: float | str) -> list[int]:
        (song,) = generate(model, LYRICS[:1], PROMPTS[:1], [3], replace(FAST, **changes))
        return song.semantic_tokens.tolist()

    plain = tokens()
    assert plain == tokens()
    greedy = tokens(temperature=0.0)
    assert greedy == tokens(top_k=1)
    assert greedy != plain
    assert tokens(repetition_penalty=5.0)[:4] == plain[:4]  # the first block is never penalised
    assert tokens(repetition_penalty=5.0) != plain
    assert tokens(cfg_scale=3.0) != plain


def test_length_is_rounded_up_to_blocks_and_progress_told(make_model: MakeModel) -> None:
    told: list[tuple[int, int]] = []
    (song,) = generate(
        make_model(), [[]], [torch.zeros(0, 3)], [0], replace(FAST, max_frames=9), lambda *n: told.append(n)
    )
    assert len(song.semantic_tokens) == 12
    assert song.ended == "max_frames"
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert generate(make_model(), [], [], [], FAST) == []


@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_a_song_cut_and_continued_is_the_song_uncut(make_model: MakeModel, penalty: float) -> None:
    model = make_model().double()
    model.set_latent_statistics(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 3.0, 2.0]))
    with torch.no_grad():
        model.semantic_head.classify.bias[-1] = -1e4  # EOS is no part of an opening
    config = replace(FAST, max_frames=24, repetition_penalty=penalty)
    whole = generate(model, LYRICS, PROMPTS, [5, 6, 7], config)
    num_kept = [8, 0, 16]
    openings = [
        Opening(song.semantic_tokens[:count], song.latents[:count]) if count else None
        for song, count in zip(whole, num_kept, strict=True)
    ]
    handed: list[int] = []
    longer = generate(
        model, LYRICS, PROMPTS, [5, 6, 7], config, openings=openings, on_block=lambda song, _: handed.append(song)
    )
    for song, before, count in zip(longer, whole, num_kept, strict=True):
        assert len(song.semantic_tokens) == count + 24
        assert song.semantic_tokens[:24].tolist() == before.semantic_tokens.tolist()
        assert_close(song.latents[:24], before.latents, rtol=1e-4, atol=1e-3)  # latents are float32
    assert handed == [0, 1, 2] * 6


def test_blocks_are_handed_on_as_they_are_rendered(make_model: MakeModel) -> None:
    pieces: dict[int, list[Tensor]] = {0: [], 1: []}
    songs = generate(
        make_model(), LYRICS[:2], PROMPTS[:2], [0, 1], FAST, on_block=lambda song, latents: pieces[song].append(latents)
    )
    for number, song in enumerate(songs):
        assert [len(piece) for piece in pieces[number]] == [4] * 4
        assert torch.equal(torch.cat(pieces[number]), song.latents)


@pytest.mark.parametrize(
    ("tokens", "latents", "message"),
    [
        (torch.zeros(6).long(), torch.zeros(6, 3), r"opening has tokens \(6,\) .* a multiple of block_frames 4"),
        (torch.zeros(4).long(), torch.zeros(4, 2), r"latents \(4, 2\), expected \[T\] and \[T, 3\]"),
        (torch.full((4,), 20), torch.zeros(4, 3), r"song 0: opening: semantic token 20 is outside 0\.\.19"),
        (torch.zeros(4).long(), torch.full((4, 3), float("inf")), "song 0: opening: latents are not finite"),
    ],
)
def test_bad_openings_are_refused(make_model: MakeModel, tokens: Tensor, latents: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(make_model(), [[1]], [torch.zeros(0, 3)], [0], FAST, openings=[Opening(tokens, latents)])


@pytest.mark.parametrize("kind", [RereadingBranch, ConcatenatingBranch])
def test_a_plain_loop_writes_the_same_song(make_model: MakeModel, kind: type[RereadingBranch]) -> None:
    """What `python -m model.bench generate` compares with does the same work."""
    model = make_model().double()
    with torch.no_grad():
        model.semantic_head.classify.bias[-1] += 1.0
    config = replace(FAST, max_frames=24, stop_at_eos=True)
    for number in range(3):
        (expected,) = generate(model, LYRICS[number : number + 1], PROMPTS[number : number + 1], [number], config)
        assert_same(write_song(model, kind, LYRICS[number], PROMPTS[number], number, config), expected)


def test_a_bfloat16_model_follows_float32(make_model: MakeModel) -> None:
    """Given the same song so far, the same chances for the next token and the same velocity of the diffusion.

    bfloat16 rounds to 8 bits, by 0.2 % on average, at each of some dozen places of two layers; errors of both signs add
    up to about 1 % here.
    """
    generator = torch.Generator().manual_seed(0)
    opening = Opening(torch.randint(20, (400,), generator=generator), torch.randn(400, 3, generator=generator))
    noise = torch.randn(4, 3, generator=generator)
    hidden = torch.randn(1, 64, generator=generator)
    seen: list[SongWriter] = []
    velocities = []
    for model in (make_model(), make_model().bfloat16()):
        arguments = (model, LYRICS[:1], PROMPTS[:1], [0], replace(FAST, max_frames=4))
        generate(*arguments, openings=[opening], noise=lambda *_: noise, observe=seen.append)
        with torch.inference_mode():
            semantic = model.semantic_table(opening.semantic_tokens[None, :4])
            state = hidden.to(model.bos_D.dtype)
            velocities.append(model.dit(noise[None], opening.latents[None, -4:], semantic, state, torch.tensor([0.5])))
    exact, rounded = (
        [*(logits[:, 0] for logits in writer.logits), velocity]
        for writer, velocity in zip(seen, velocities, strict=True)
    )
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected), "the weights are rounded"
        assert (found - expected).norm() < 0.03 * expected.norm()
    chances = [(logits[2] / FAST.temperature).softmax(-1) for logits in (exact, rounded)]
    assert (chances[0] - chances[1]).abs().sum() / 2 < 0.02, "so often another token is drawn"


def test_a_bfloat16_model_writes_the_same_song_again(make_model: MakeModel) -> None:
    model = make_model().bfloat16()
    first, again = (generate(model, LYRICS, PROMPTS, [5, 6, 7], FAST) for _ in range(2))
    for song, other in zip(first, again, strict=True):
        assert song.semantic_tokens.tolist() == other.semantic_tokens.tolist()
        assert torch.equal(song.latents, other.latents)
        assert song.latents.dtype == torch.float32
        assert song.latents.isfinite().all()
        assert not torch.equal(song.latents, song.latents.bfloat16().float()), "the path is followed in float32"


@pytest.mark.parametrize(
    ("lyrics", "prompt", "message"),
    [
        ([1] * 11, torch.zeros(0, 3), "song 0: 11 lyric symbols, this model takes 10"),
        ([12], torch.zeros(0, 3), r"song 0: lyric id 12 is outside 0\.\.11"),
        ([1], torch.zeros(7, 3), r"prompt has shape \(7, 3\), expected at most 6 frames x 3 channels"),
        ([1], torch.zeros(4, 2), r"prompt has shape \(4, 2\)"),
        ([1], torch.full((4, 3), float("nan")), "song 0: prompt is not finite"),
    ],
)
def test_bad_conditions_are_refused(make_model: MakeModel, lyrics: list[int], prompt: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(make_model(), [lyrics], [prompt], [0], FAST)
    with pytest.raises(ConfigError, match="1 lyrics, 1 prompts, 0 seeds and 1 openings"):
        generate(make_model(), [lyrics], [prompt], [], FAST)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_frames", 0),
        ("euler_steps", 0),
        ("top_k", -1),
        ("temperature", -0.1),
        ("top_p", 1.5),
        ("repetition_penalty", 0.0),
        ("diffusion_temperature", 2.0),
    ],
)
def test_settings_without_meaning_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"sampling\.{name} is {value}"):
        SamplingConfig(**{name: value})


def test_presets_are_the_published_ones() -> None:
    paper, release = PRESETS["paper"], PRESETS["release"]
    assert (paper.cfg_scale, paper.top_k, paper.temperature, paper.euler_steps) == (1.5, 200, 0.9, 36)
    assert (release.top_k, release.diffusion_temperature, release.repetition_penalty) == (100, 0.95, 1.1)
