"""Tests of step_runner.py and step_cache.py: steps that are recorded once write the same songs."""

import functools
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.testing import assert_close

from model.network import step_cache
from model.network.attention import PackedCausal
from model.network.config import ModelConfig
from model.network.song_model import SongModel
from model.network.step_cache import CachedStep, StepCache
from model.sampling.sampling import GeneratedSong, Opening, SamplingConfig, generate
from model.sampling.song_writer import SongWriter
from model.sampling.step_runner import StepRunner, choose_runner, describe_steps

from ..network.test_transfer import CopyCounter
from .recorded_steps import OperationCounter, Recorder, Tape
from .test_sampling import LYRICS, PROMPTS, assert_same

MakeModel = Callable[..., SongModel]
BLOCKS, BLOCK = 9, 4
STEPS = BLOCKS * (BLOCK + 2) - 1  # tokens, the path, the block before; no block before the first
EXTENTS = 3
KINDS = 2 * EXTENTS + 1  # tokens and blocks by extent, the path
CONFIG = SamplingConfig(max_frames=BLOCKS * BLOCK, euler_steps=2, top_k=8, stop_at_eos=False)
OPENING = Opening(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.sampling.song_writer.BUCKET", 20)


def write(model: SongModel, config: SamplingConfig, runner: StepRunner | None = None) -> list[GeneratedSong]:
    return generate(model, LYRICS * 2, PROMPTS * 2, range(6), config, runner=runner)


def ending_model(make_model: MakeModel) -> SongModel:
    model = make_model().double()
    with torch.no_grad():
        model.semantic_head.classify.bias[-1] += 1.0
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"repetition_penalty": 1.3, "diffusion_temperature": 0.9, "top_k": 0, "top_p": 0.9},
        {"guidance": "global", "temperature": 0.0},
    ],
)
def test_recorded_steps_write_the_songs_that_plain_ones_do(make_model: MakeModel, changes: dict[str, Any]) -> None:
    model, config = ending_model(make_model), replace(CONFIG, stop_at_eos=True, min_frames=2 * BLOCK, **changes)
    recorder = Recorder()
    songs, expected = write(model, config, StepRunner(recorder)), write(model, config)
    assert len({len(song.latents) for song in expected}) > 2, "songs of different length"
    assert recorder.num_launched > len(recorder.tapes) > 0
    for found, song in zip(songs, expected, strict=True):
        assert_same(found, song)


def test_a_step_is_one_launch_and_recorded_once_for_songs_of_any_length(make_model: MakeModel) -> None:
    """Longest row: 9 positions of conditions, BOS, 5 a block: steps look at 20, 40 and 60 positions."""
    recorder, launched = Recorder(), [0]
    runner = StepRunner(recorder)

    def note(*_: int) -> None:
        launched.append(recorder.num_launched)

    generate(make_model(), LYRICS, PROMPTS, range(3), CONFIG, note, runner=runner)
    assert runner.num_recorded == len(recorder.tapes) == KINDS
    assert max(later - former for former, later in pairwise(launched)) == BLOCK + 2, "tokens, the path, the block"
    assert runner.num_launched == recorder.num_launched == STEPS - KINDS, "each kind runs plainly once"


def test_between_launches_little_is_done(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.sampling.song_writer.BUCKET", 64)
    recorder, before = Recorder(), 0
    writer = SongWriter(make_model(), CONFIG, BLOCKS, StepRunner(recorder))
    with torch.inference_mode():
        writer.read_start(LYRICS, PROMPTS, [OPENING] * 3)
        for block in range(4):
            before = recorder.num_launched
            with OperationCounter(recorder) as counter:
                if block:
                    writer.read_block()
                writer.write_tokens(torch.rand(3, BLOCK, dtype=torch.float64))
                writer.render(torch.randn(3, BLOCK, 3))
    assert recorder.num_launched - before == BLOCK + 2, "all kinds are recorded by now"
    assert 0 < counter.num_outside < 16, "draws are made and copied"


def test_shapes_and_places_are_the_same_at_every_step(make_model: MakeModel) -> None:
    """And the only tensors a step takes from outside are weights and those it has always taken."""
    model = make_model()
    tapes: dict[object, list[Tape]] = {}

    class Watching(StepRunner):
        is_recording = True

        def run(self, kind: object, step: Callable[[], None]) -> None:
            with Tape() as tape:
                step()
            tapes.setdefault(kind, []).append(tape)

    generate(model, LYRICS, PROMPTS, range(3), CONFIG, runner=Watching())
    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    assert len(tapes) == KINDS
    assert sum(map(len, tapes.values())) == STEPS
    for alike in tapes.values():
        assert all(tape.shapes == alike[0].shapes for tape in alike)
        assert all(tape.given.keys() == alike[0].given.keys() for tape in alike)
    taken = set().union(*(tape.given.keys() for alike in tapes.values() for tape in alike))
    assert len(taken - weights) <= 14, "keys, values, lengths, state, draws, tokens, latents, logits, ..."


def test_no_step_copies_from_the_cpu_or_reads_anything_back(make_model: MakeModel) -> None:
    """On the meta device, where reading a value is an error."""
    model = make_model().to("meta")
    writer = SongWriter(model, replace(CONFIG, repetition_penalty=1.2, top_p=0.9), BLOCKS, StepRunner())
    uniform, noise = torch.rand(3, BLOCK, dtype=torch.float64), torch.randn(3, BLOCK, 3)
    with torch.no_grad():
        writer.read_start(LYRICS, PROMPTS, [OPENING] * 3)
        with CopyCounter() as counter:
            writer.write_tokens(uniform)
            writer.render(noise)
            writer.read_block()
    assert counter.counts == Counter({"copy": 2}), "uniform numbers and noise, which nothing waits for"


def test_songs_that_end_leave_their_rows_until_half_are_idle(make_model: MakeModel) -> None:
    recorder, model = Recorder(), ending_model(make_model)
    sizes: list[tuple[int, int]] = []
    songs = generate(
        model, LYRICS * 2, PROMPTS * 2, range(6), replace(CONFIG, stop_at_eos=True), runner=StepRunner(recorder),
        observe=lambda writer: sizes.append((len(writer.songs), len(writer._tokens_AP))),
    )  # fmt: skip
    assert len({song.ended for song in songs}) >= 1
    assert any(alive < rows for alive, rows in sizes)
    assert all(2 * alive > rows for alive, rows in sizes)
    assert len({rows for _, rows in sizes}) <= 3, "6, 3 or fewer, 1"


@pytest.mark.parametrize("refused", [0, 1])
def test_where_a_step_cannot_be_recorded_the_song_is_written_plainly(
    make_model: MakeModel, caplog: pytest.LogCaptureFixture, refused: int
) -> None:
    model = make_model().double()
    recorder = Recorder(refused={refused})
    caplog.set_level(logging.WARNING)
    songs = write(model, CONFIG, StepRunner(recorder))
    assert len(recorder.tapes) == refused
    (message,) = caplog.messages
    assert message.startswith("steps of writing: one kernel at a time, as step ")
    assert message.endswith("cannot be recorded: operation not permitted when stream is capturing")
    for found, expected in zip(songs, write(model, CONFIG), strict=True):
        assert_same(found, expected)


def test_a_step_that_reads_a_value_is_no_step(make_model: MakeModel) -> None:
    """What the recorder is for."""
    with pytest.raises(Exception, match="needs a value of the device"):
        Recorder()(lambda: torch.ones(1).add_(torch.ones(1).item()))


def test_only_gpus_have_graphs() -> None:
    assert not choose_runner(torch.device("cpu")).is_recording
    assert describe_steps("cpu") == "steps of writing: one kernel at a time; CUDA graphs are for GPUs"
    assert describe_steps("cuda") == "steps of writing: CUDA graphs"
    assert describe_steps("cuda", with_graphs=False) == "steps of writing: one kernel at a time, as told"


def test_cached_steps_equal_one_pass_for_rows_of_different_lengths(
    tiny_config: ModelConfig, make_model: MakeModel
) -> None:
    model = make_model().lm
    rows = [torch.randn(length, 64) for length in (7, 4, 9)]
    read = [len(row) - 3 for row in rows]  # the last three of each row are read one by one
    for bucket in (1, 4):
        cache = StepCache(tiny_config, read, 3, like=rows[0], bucket=bucket)
        attend, left = PackedCausal(read, cache), rows
        with torch.no_grad():
            model(torch.cat([row[:-3] for row in rows]), attend.positions(rows[0].device), attend)
            for step in range(3):
                if step == 2:  # the middle row leaves
                    cache.keep([0, 2])
                    left = [rows[0], rows[2]]
                vectors = torch.stack([row[len(row) - 3 + step] for row in left])
                stepped = model(vectors, cache.lengths_R, CachedStep(cache))
                cache.lengths_R.add_(1)
                cache.grow()
            for row, found in zip(left, stepped, strict=True):
                whole = PackedCausal([len(row)])
                assert_close(found, model(row, whole.positions(row.device), whole)[-1])


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, *, cache_seqlens: Tensor, causal: bool
) -> Tensor:
    """Stand in for flash-attn's, row by row: store what is new where the row ends, attend to all up to there."""
    assert cache_seqlens.dtype == torch.int32
    assert causal
    assert k_cache.is_contiguous()
    mixed = []
    for row, end in enumerate(cache_seqlens.tolist()):
        k_cache[row, end], v_cache[row, end] = k[row, 0], v[row, 0]
        query, keys, values = (
            x[row].transpose(0, 1) for x in (q, k_cache[:, : end + 1], v_cache[:, : end + 1])
        )  # fmt: skip
        weights = (query @ keys.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        mixed.append((weights @ values).transpose(0, 1))
    return torch.stack(mixed)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(step_cache, "suits_kernel", lambda _: True)
    step_cache.find_cache_kernel.cache_clear()
    yield module
    step_cache.find_cache_kernel.cache_clear()


def test_flash_attn_reads_a_row_to_its_end_and_one_recording_is_enough(
    make_model: MakeModel, flash: ModuleType
) -> None:
    model = ending_model(make_model)
    config = replace(CONFIG, stop_at_eos=True, min_frames=2 * BLOCK)
    expected = write(model, config)  # the module has no such function: PyTorch's attention
    assert step_cache.find_cache_kernel() is None
    flash.flash_attn_with_kvcache = flash_attn_with_kvcache  # type: ignore[attr-defined]
    step_cache.find_cache_kernel.cache_clear()
    extents = set()
    found = generate(
        model, LYRICS * 2, PROMPTS * 2, range(6), config, observe=lambda writer: extents.add(writer._cache.extent)
    )
    assert len(extents) == 1, "the whole of the room there is"
    for song, other in zip(found, expected, strict=True):
        assert_same(song, other)


def test_buckets_cost_less_than_the_whole_room() -> None:
    """A song of 150 s at full size, its longest conditions read: positions that steps look at, against those needed."""
    config = ModelConfig(lm_layers=1, num_heads=1, dim=32)
    start, num_steps = 250 + 600 + 1, 235 * 17 - 1
    cache = StepCache(config, [start, 1], num_steps, like=torch.empty(0, device="meta"), bucket=step_cache.BUCKET)
    extents = []
    for _ in range(num_steps):
        extents.append(cache.extent)
        cache.grow()
    needed = start + (num_steps + 1) / 2
    assert cache.keys_LRHME.shape[3] == max(extents) == 5 * step_cache.BUCKET
    assert len(set(extents)) == 5, "as many recordings of a token's step"
    assert sum(extents) / num_steps == pytest.approx(1.18 * needed, rel=0.01)
    assert start + num_steps == pytest.approx(1.70 * needed, rel=0.01), "what looking at all there is room for costs"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_write_the_songs_that_plain_steps_do(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("model.sampling.song_writer.BUCKET", 64)
    device = torch.device("cuda")
    model, config = make_model().to(device, dtype), replace(CONFIG, max_frames=160, repetition_penalty=1.2)
    runner = choose_runner(device)
    songs = write(model, config, runner)
    assert runner.is_recording, "no step was refused"
    assert runner.num_launched > 150
    for found, expected in zip(songs, write(model, config, choose_runner(device, with_graphs=False)), strict=True):
        assert found.semantic_tokens.tolist() == expected.semantic_tokens.tolist()
        assert_close(found.latents, expected.latents)


@pytest.mark.slow
def test_compiled_layers_are_compiled_once_for_songs_of_any_length_and_number(
    tiny_config: ModelConfig, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced without generating code, as in test_compile.py."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = make_model(replace(tiny_config, lm_layers=1, dit_layers=1))
    model.compile_layers()
    seen = []
    for count, blocks in ((2, 2), (1, 3), (3, 5)):
        generate(model, LYRICS[:count], PROMPTS[:count], range(count), replace(CONFIG, max_frames=blocks * BLOCK))
        seen.append(counters["stats"]["unique_graphs"])
    torch._dynamo.reset()
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert 0 < seen[0] <= 8
    assert seen == [seen[0]] * 3
