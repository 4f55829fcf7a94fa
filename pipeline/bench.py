"""How fast the encoders are beside the plain call of their library, and how much memory they take.

    python -m pipeline.bench [--profile miniature] [--memory-minutes 60]

separator: `demucs.apply.apply_model` on the whole song. tokens: MuQ's own forward, window by window, and the nearest
code. vae: diffusers' `AutoencoderOobleck.encode` on the whole song. Both sides have the same weights, precision and
threads, and the same audio, which is made up. Rounds are interleaved; a ratio is the median over rounds of the ratio
within a round. Memory is the peak of a process of its own that decodes a file and encodes it: of the machine, and of
the GPU where it runs on one. The last line is one JSON object.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from pipeline.audio.decode import Audio, decode_audio, fill, resample
from pipeline.encoding.codebook import Codebook
from pipeline.encoding.encode_song import frames_of, latent_audio, load_codec, load_tokenizer, semantic_audio
from pipeline.encoding.muq_weights import load_muq
from pipeline.encoding.semantic_tokens import plan_windows
from pipeline.encoding.vae_checkpoint import load_oobleck
from pipeline.gpu import ieee_float32
from pipeline.model_files.errors import ModelError
from pipeline.model_files.profiles import PROFILES, Profile, get_profile, locate_models
from pipeline.separation.demucs_stream import StreamSeparator, in_precision
from pipeline.separation.demucs_weights import load_separator
from pipeline.separation.separate_vocals import SeparateVocals
from pipeline.song import Song
from shards.schema import FRAME_RATE_HZ, LATENT_HOP_LENGTH, LATENT_SAMPLE_RATE_HZ, SEMANTIC_HOP_LENGTH

ENCODERS = ("separator", "tokens", "vae")
STAGES = {"separator": ("separator",), "tokens": ("muq", "codebook"), "vae": ("vae",)}  # whose models an encoder loads
MIN_RATIO = {"cpu": 1.0, "cuda": 1.5}  # of speeds; on a GPU several parts of a song run together
MAX_MEMORY_GB = 4.0  # of an encoder on the file of --memory-minutes
_RATE_HZ = LATENT_SAMPLE_RATE_HZ
_PATTERN_S = 10

Contender = Callable[[], Any]


def make_audio(seconds: float) -> Audio:
    """Return float32 [2, L] at 48 kHz, whole frames: chords of a few partials and some noise, over and over."""
    num_samples = int(seconds * FRAME_RATE_HZ) * LATENT_HOP_LENGTH
    time_s = np.arange(int(min(seconds, _PATTERN_S) * _RATE_HZ)) / _RATE_HZ
    rng = np.random.default_rng(0)
    tones = sum(np.sin(2 * np.pi * hz * time_s) / k for k, hz in enumerate((110, 220, 277, 330, 660, 1_760), 1))
    pattern = 0.1 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * time_s)) + 0.02 * rng.standard_normal((2, len(time_s)))
    return np.tile(pattern.astype(np.float32), -(-num_samples // pattern.shape[1]))[:, :num_samples]


def make_contenders(name: str, profile: Profile, device: str, mix: Audio) -> tuple[Contender, Contender]:
    """Return our encoder and the plain call, ready to run on a mix at 48 kHz."""
    make = {"separator": _separator_contenders, "tokens": _token_contenders, "vae": _vae_contenders}
    return make[name](profile, device, mix)


def _separator_contenders(profile: Profile, device: str, mix: Audio) -> tuple[Contender, Contender]:
    from demucs.apply import apply_model

    model = load_separator(profile.model_path("separator")).to(device)
    at_model_rate = resample(mix, _RATE_HZ, model.samplerate)
    index = model.sources.index("vocals")
    precision = profile.separator_precision
    ours = StreamSeparator(
        model,
        "vocals",
        overlap=profile.separator_overlap,
        batch_size=profile.batch_size(device),
        precision=precision,
        device=device,
    )

    def plain() -> Any:
        wave = torch.from_numpy(at_model_rate)
        mean, std = wave.mean(0).mean(), wave.mean(0).std() + 1e-8
        batch = ((wave - mean) / std)[None]
        with in_precision(precision, device):
            stems = apply_model(model, batch, shifts=0, split=True, overlap=profile.separator_overlap, device=device)
        return (stems[0, index] * std + mean).numpy()

    return lambda: fill(np.empty_like(at_model_rate), ours.separate(at_model_rate, model.samplerate)), plain


def _token_contenders(profile: Profile, device: str, mix: Audio) -> tuple[Contender, Contender]:
    tokenizer, codebook = load_tokenizer(profile, device), Codebook.load(profile.model_path("codebook"))
    folder = profile.model_path("muq")
    num_layers = int(load_muq(folder, 0).config.encoder_depth)
    muq = load_muq(folder, num_layers).to(device)  # all layers, as the library has them
    num_frames = mix.shape[1] * FRAME_RATE_HZ // _RATE_HZ
    audio = resample(mix.mean(axis=0)[None], _RATE_HZ, SEMANTIC_HOP_LENGTH * FRAME_RATE_HZ)[0]
    windows = plan_windows(
        num_frames, round(profile.muq_window_s * FRAME_RATE_HZ), round(profile.muq_margin_s * FRAME_RATE_HZ)
    )

    def plain() -> Any:
        ids = []
        with torch.inference_mode(), ieee_float32():
            for window in windows:
                samples = audio[window.start * SEMANTIC_HOP_LENGTH : window.stop * SEMANTIC_HOP_LENGTH]
                states = muq(torch.from_numpy(samples)[None].to(device), output_hidden_states=True).hidden_states
                hidden = states[profile.muq_layer][
                    0, window.keep_start - window.start : window.keep_stop - window.start
                ]
                ids.append(codebook.encode(hidden.cpu().numpy()))
        return np.concatenate(ids)

    return lambda: tokenizer.tokens(audio, num_frames), plain


def _vae_contenders(profile: Profile, device: str, mix: Audio) -> tuple[Contender, Contender]:
    codec = load_codec(profile, device)
    model, _ = load_oobleck(profile.model_path("vae"))
    model.to(device)

    def plain() -> Any:
        with torch.inference_mode(), ieee_float32():
            posterior = model.encode(torch.from_numpy(mix)[None].to(device)).latent_dist
        return posterior.mean[0].T.cpu().numpy()

    return lambda: codec.encode(mix)[0], plain


def compare(name: str, profile: Profile, device: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Return seconds of audio per second of both sides, their ratio, and how far the results differ."""
    ours, plain = make_contenders(name, profile, device, make_audio(seconds))
    difference = np.abs(ours() - np.asarray(plain(), dtype=np.float32))  # also warms both up
    taken: dict[Contender, list[float]] = {ours: [], plain: []}
    for _ in range(rounds):
        for contender, times in taken.items():
            started = time.perf_counter()
            contender()
            times.append(time.perf_counter() - started)
    ratios = np.array(taken[plain]) / np.array(taken[ours])
    return {
        "audio_per_s": round(seconds / float(np.median(taken[ours])), 2),
        "plain_audio_per_s": round(seconds / float(np.median(taken[plain])), 2),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_spread": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        "max_difference": float(difference.max()),
    }


def measure_memory(name: str, profile: Profile, device: str, minutes: float, scratch: Path) -> dict[str, Any]:
    """Return the peak memory of a process that encodes a file of some minutes, and the seconds it took."""
    path = scratch / f"{minutes:g}.flac"
    if not path.exists():
        pattern = make_audio(_PATTERN_S).T
        with soundfile.SoundFile(path, "w", _RATE_HZ, 2) as file:
            for _ in range(round(minutes * 60 / _PATTERN_S)):
                file.write(pattern)
    command = [sys.executable, "-m", "pipeline.bench", "--probe", name, str(path)]
    command += ["--profile", profile.name, "--device", device]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    probe: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return probe


def probe_memory(name: str, profile: Profile, device: str, path: Path) -> dict[str, Any]:
    """Encode one file in this process, from its bytes on, and return the peak of its memory."""
    started = time.perf_counter()
    decoded = decode_audio(path)
    if name == "separator":
        stage = SeparateVocals(
            SeparateVocals.Config(
                model_path=profile.model_path("separator"),
                accompaniment_share=0.5,
                batch_size=profile.batch_size(device),
                precision=profile.separator_precision,
                device=device,
            )
        )
        stage.setup()
        song = Song(song_id="", path=path, audio="", mix=decoded.samples, sample_rate=decoded.sample_rate)
        stage.process(song)
    else:
        num_frames = frames_of(decoded)
        if name == "tokens":
            load_tokenizer(profile, device).tokens(semantic_audio(decoded, num_frames), num_frames)
        else:
            audio = latent_audio(decoded, num_frames)
            del decoded
            load_codec(profile, device).encode(audio)
    status = Path("/proc/self/status").read_text().splitlines()
    peak_kib = int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
    figures = {"peak_gb": round(peak_kib * 1024 / 1e9, 2), "wall_s": round(time.perf_counter() - started, 1)}
    if device != "cpu":
        figures["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and return 0 if every target is met, 1 if not, 2 where a model is missing."""
    options = _parse(arguments)
    profile, device = get_profile(options.profile), options.device
    names = options.only if options.probe is None else options.probe[:1]
    try:
        profile = locate_models(profile, [stage for name in names for stage in STAGES[name]])
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.probe:
        name, path = options.probe
        sys.stdout.write(json.dumps(probe_memory(name, profile, device, Path(path))) + "\n")
        return 0
    result: dict[str, Any] = {"profile": profile.name, "device": device, "threads": torch.get_num_threads()}
    missed = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for name in options.only:
            figures: dict[str, Any] = {}
            if options.rounds:
                figures = compare(name, profile, device, options.seconds, options.rounds)
                missed += [f"{name} ratio"] if figures["ratio"] < MIN_RATIO[device] else []
            if options.memory_minutes:
                memory = measure_memory(name, profile, device, options.memory_minutes, Path(scratch))
                missed += [f"{name} memory"] if memory["peak_gb"] > MAX_MEMORY_GB else []
                figures[f"of_{options.memory_minutes:g}_minutes"] = memory
            sys.stdout.write(f"{name:<10} {json.dumps(figures)}\n")
            sys.stdout.flush()
            result[name] = figures
    sys.stdout.write(json.dumps({"ok": not missed, "missed": missed, **result}) + "\n")
    return 1 if missed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 every target is met, 1 one is missed, 2 wrong use or a model that is missing",
    )
    parser.add_argument("--profile", choices=sorted(PROFILES), default="miniature", help="models (default: miniature)")
    parser.add_argument("--device", choices=sorted(MIN_RATIO), default="cpu", help="default: cpu")
    parser.add_argument("--only", choices=ENCODERS, nargs="+", default=list(ENCODERS), help="these encoders only")
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio in a round (default: 60)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7; 0: no comparison of speed)")
    parser.add_argument(
        "--memory-minutes",
        type=float,
        default=0.0,
        help="length of the file that memory is measured on (default: none)",
    )
    parser.add_argument("--scratch", type=Path, help="where that file goes (default: the system's folder for such)")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seconds < 1 or options.rounds < 0 or options.memory_minutes < 0:
        parser.error("--seconds: expected 1 or more; --rounds and --memory-minutes: 0 or more")
    return options


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
