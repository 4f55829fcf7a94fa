"""The GPUs, against what the stages take of them."""

import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from jobs.checks.finding import Finding, format_bytes
from jobs.cluster import WORKERS_PER_GPU
from model.training.nvidia_driver import read_driver
from pipeline.alignment.by_language import MAX_LOADED
from pipeline.model_files.names import MINIATURE
from pipeline.model_files.profiles import Profile
from pipeline.transcription.encoded_song import BATCH_WINDOWS

# What a process takes of a GPU for CUDA itself: 0.3 to 0.5 GB are usual.
CONTEXT_BYTES = 500_000_000
# cuDNN's workspaces, and what the allocator cannot reuse: a tenth, by judgement.
SPARE = 1.1
MIN_CAPABILITY = (7, 0)  # float16 matrix units, which large Whisper models run on
TRAINING_CAPABILITY = (8, 0)  # bfloat16, which training runs in
_BATCH = 0  # stands for `Profile.batch_size`

Basis = Literal["measured", "published", "computed"]  # how `part_bytes` is known


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMemory:
    """What one stage takes of a GPU, with the models of profile full; weights are parameters times bytes.

    A measured part is the most bytes that are alive at once, beside the weights, in one forward pass of the real
    network with random weights on a CPU, taken with one part and with two; the aligner's in a pass of shapes without
    values. None of it was measured on a GPU.
    """

    job: str  # one of `JOBS`
    weight_bytes: int
    part_bytes: int  # at the peak, for one part of a song that runs in a batch
    num_parts: int = _BATCH  # that run together
    keeps_own_pool: bool = False  # CTranslate2 shares no memory with PyTorch, whose stages use the same pool in turn
    basis: Basis
    what: str  # the network, and what a part is


STAGES: dict[str, StageMemory] = {
    "separator": StageMemory(
        job="cleaning",
        weight_bytes=4 * 42_000_000,
        part_bytes=380_000_000,
        basis="measured",
        what="htdemucs, 42 M x float32; a segment of 7.8 s",
    ),
    "asr": StageMemory(
        job="cleaning",
        weight_bytes=2 * 1_550_000_000,
        # faster-whisper's README, benchmark of large-v2: 6.09 GB in all with batch_size=8 and 5 beams in float16; the
        # weights and CUDA taken off.
        part_bytes=320_000_000,
        num_parts=BATCH_WINDOWS,
        keeps_own_pool=True,
        basis="published",
        what="Whisper large, 1.55 G x float16; a window of 30 s",
    ),
    "verifier": StageMemory(
        job="cleaning",
        weight_bytes=2 * 74_000_000,
        part_bytes=2 * 8 * 1500 * 1500 * 2,  # attention of the encoder, 8 heads in float16, and as much for the rest
        num_parts=BATCH_WINDOWS,
        keeps_own_pool=True,
        basis="computed",
        what="Whisper base, 74 M x float16; a window of 30 s",
    ),
    "aligner": StageMemory(
        job="cleaning",
        weight_bytes=4 * 319_000_000,
        part_bytes=264_000_000,
        num_parts=4,  # `pipeline.alignment.wav2vec2.Wav2Vec2`
        basis="measured",
        what="wav2vec 2.0 large, 319 M x float32, per language; 20 s",
    ),
    "muq": StageMemory(
        job="extraction",
        weight_bytes=4 * 180_000_000,  # of 333 M in all
        part_bytes=594_000_000,
        basis="measured",
        what="MuQ to layer 6, 180 M x float32; a window of 30 s",
    ),
    "vae": StageMemory(
        job="extraction",
        weight_bytes=4 * 169_000_000,
        part_bytes=1_302_000_000,
        basis="measured",
        what="VAE, 169 M x float32; a chunk of 10 s and its context",
    ),
}
JOBS = {"cleaning": "clean_lyrics.py", "extraction": "extract_tokens.py"}
_ROOM, _ORIGIN = "GPU memory", "computed, not measured on a GPU"


def bytes_per_worker(job: str, profile: Profile, num_languages: int) -> int:
    """Return what one worker of a job takes of a GPU at most.

    All weights of the job's stages stay loaded. PyTorch's stages take turns in one pool of memory, which grows to what
    the largest needs; CTranslate2's models have their own.

    Args:
        job: one of `JOBS`.
        profile: how many parts run together. The networks are those of profile full, whatever it names; those of
            `miniature` take next to nothing.
        num_languages: for which an aligner stays loaded.
    """
    if profile.muq == MINIATURE and profile.separator == MINIATURE:
        return 2 * CONTEXT_BYTES
    stages = {name: stage for name, stage in STAGES.items() if stage.job == job}
    copies = {"aligner": min(max(1, num_languages), MAX_LOADED)}
    weights = sum(stage.weight_bytes * copies.get(name, 1) for name, stage in stages.items())
    working = {
        name: stage.part_bytes * (stage.num_parts or profile.batch_size("cuda", name)) for name, stage in stages.items()
    }
    own = sum(num_bytes for name, num_bytes in working.items() if stages[name].keeps_own_pool)
    shared = max((num_bytes for name, num_bytes in working.items() if not stages[name].keeps_own_pool), default=0)
    return CONTEXT_BYTES + math.ceil(SPARE * (weights + own + shared))


def cpu_weight_bytes(profile: Profile) -> int:
    """Return the weights that a worker holds in the machine's memory where there is no GPU: Whisper then is int8."""
    if profile.asr == MINIATURE:
        return 200_000_000
    cleaning = [name for name, stage in STAGES.items() if stage.job == "cleaning"]
    return sum(STAGES[name].weight_bytes // (2 if STAGES[name].keeps_own_pool else 1) for name in cleaning)


def is_gpu_here() -> bool:
    """Whether NVIDIA's driver has a GPU that this machine, or container, may open; PyTorch is not imported for it."""
    return bool(read_driver().gpus)


def check_usable() -> Finding | None:
    """Return why PyTorch cannot use the GPU that is here; None: it can, or there is none."""
    if not is_gpu_here():
        return None
    from model.training.hardware import explain_unusable_gpu

    problem = explain_unusable_gpu()
    if problem is None:
        return None
    found, _, remedy = problem.partition("; ")
    return Finding(name="GPU", status="FAIL", found=found, needed="a GPU that PyTorch can use", remedy=remedy)


def check_gpus(profile: Profile, *, num_wanted: int | None, num_languages: int) -> list[Finding]:
    """Check that PyTorch can use the GPUs, and that the workers of the jobs fit into their memory.

    Args:
        profile: whose models run.
        num_wanted: GPUs that the machine is supposed to have; None: whatever there is.
        num_languages: for which an aligner stays loaded.
    """
    try:
        from model.training import hardware
    except (ImportError, OSError) as error:  # OSError: one of PyTorch's libraries cannot be loaded
        return [Finding(name="GPU", status="FAIL", found=f"PyTorch cannot be imported: {error}", remedy="make setup")]
    if (unusable := check_usable()) is not None:
        return [unusable]
    gpus = hardware.read_gpus()
    num_visible = min(len(gpus), count_visible_gpus())
    if num_visible == 0 or (num_wanted is not None and num_visible < num_wanted):
        return [_too_few(len(gpus), num_visible, num_wanted, profile)]
    findings = []
    kinds = Counter((gpu.name, gpu.memory_bytes, gpu.compute_capability, gpu.driver) for gpu in gpus)
    for (name, memory_bytes, capability, driver), count in kinds.items():
        facts = [format_bytes(memory_bytes) if memory_bytes else "memory unknown"]
        facts += [f"compute capability {capability[0]}.{capability[1]}"] if capability else []
        facts += [f"driver {driver}"] if driver else []
        what = f"{f'{count} x ' if count > 1 else ''}{name} ({', '.join(facts)})"
        if num_visible < len(gpus):
            what += f"; {num_visible} of {len(gpus)} visible: CUDA_VISIBLE_DEVICES={_visible_devices()}"
        findings.append(_check_capability(what, capability))
        findings += [_check_room(job, memory_bytes, profile, num_visible, num_languages) for job in JOBS]
    return findings


def count_visible_gpus() -> int:
    """Return how many GPUs PyTorch sees."""
    if not is_gpu_here():
        return 0
    import torch

    return torch.cuda.device_count()


def _visible_devices() -> str:
    return repr(os.environ.get("CUDA_VISIBLE_DEVICES", "not set"))


def _too_few(num_found: int, num_visible: int, num_wanted: int | None, profile: Profile) -> Finding:
    hidden = f", {num_found} hidden by CUDA_VISIBLE_DEVICES={_visible_devices()}" if num_found > num_visible else ""
    found = f"{num_visible or 'none'} found{hidden}"
    if not num_found and (version := read_driver().version):
        found += f", though NVIDIA's driver {version} is loaded: in a container, it needs docker run --gpus all"
    if num_wanted:
        remedy = (
            "give the container its GPUs (docker run --gpus all), install NVIDIA's driver, see what nvidia-smi says"
        )
        needed = f"{num_wanted} (--gpus)"
        return Finding(name="GPU", status="FAIL", found=found, needed=needed, remedy=remedy)
    if profile.asr == MINIATURE:
        return Finding(name="GPU", status="ok", found=f"{found}: the miniatures run on the CPU")
    needs = ", ".join(f"{job} {format_bytes(bytes_per_worker(job, profile, 1))}" for job in JOBS)
    return Finding(
        name="GPU",
        status="warn",
        found=f"{found}: full-size models run on the CPU, far slower",
        needed=f"a GPU with room for a worker ({needs})",
        remedy="run on a machine with a GPU, or try everything out with --profile miniature",
    )


def _check_capability(what: str, capability: tuple[int, int] | None) -> Finding:
    if capability is not None and capability < MIN_CAPABILITY:
        needed = f"compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
        return Finding(name="GPU", status="FAIL", found=what, needed=needed, remedy="a newer GPU, or --device cpu")
    if capability is not None and capability < TRAINING_CAPABILITY:
        needed = f"compute capability {TRAINING_CAPABILITY[0]}.{TRAINING_CAPABILITY[1]} to train in bfloat16"
        return Finding(name="GPU", status="warn", found=what, needed=needed, remedy="cleaning and extraction work here")
    return Finding(name="GPU", status="ok", found=what)


def _check_room(job: str, memory_bytes: int | None, profile: Profile, num_gpus: int, num_languages: int) -> Finding:
    """Compare the memory of a GPU with the workers that a job puts on it."""
    each = bytes_per_worker(job, profile, num_languages)
    needed = f"{format_bytes(WORKERS_PER_GPU * each)} for {WORKERS_PER_GPU} workers a GPU ({_ORIGIN})"
    if memory_bytes is None:
        remedy = "see what nvidia-smi says"
        return Finding(name=_ROOM, status="warn", found=f"{job}: memory unknown", needed=needed, remedy=remedy)
    fitting = memory_bytes // each
    if fitting >= WORKERS_PER_GPU:
        return Finding(name=_ROOM, status="ok", found=f"{job} takes {needed}")
    found = f"{job}: {format_bytes(memory_bytes)} a GPU"
    if fitting:
        remedy = f"python jobs/{JOBS[job]} --workers {fitting * num_gpus}"
        return Finding(name=_ROOM, status="warn", found=found, needed=needed, remedy=remedy)
    needed = f"{format_bytes(each)} for one worker ({_ORIGIN})"
    return Finding(name=_ROOM, status="FAIL", found=found, needed=needed, remedy="a larger GPU, or --device cpu")


def describe_stages() -> str:
    """Return the table of what each stage takes of a GPU, for --help."""
    lines = []
    for name, stage in STAGES.items():
        parts = f"{stage.num_parts or 'batch'} x {format_bytes(stage.part_bytes)}"
        lines.append(f"  {name:<9} {format_bytes(stage.weight_bytes):>6} + {parts:<14} {stage.basis:<9}  {stage.what}")
    return "\n".join(lines)
