"""Bytes that layers and head move through memory, counted without a GPU: `python -m model.bench bytes`.

Every kernel reads its inputs once and writes its outputs once. Of layers that are not compiled, each operation that is
no view is a kernel, and a dispatch mode counts them. Of compiled ones, kernels are what PyTorch's compiler fuses: its
scheduler counts them; no code is generated and the traced graphs run as they are. Fused for a CPU: for a GPU, whose
concatenations fuse too, it is a little less. Then what they mean for a step of full.yaml
(`model/training/roofline.py`).

Attention counts as a fused kernel: q, k, v and output forward; these, and four gradients, backward.
"""

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.codegen.common import FileBackedGraphModule
from torch._inductor.graph import GraphLowering
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from model.bench.step import RECOMPUTE
from model.network.attention import rotary_table
from model.network.config import ModelConfig
from model.network.dit import DitLayer
from model.network.lm import LmLayer
from model.network.losses import compile_kernels, score_tokens
from model.network.recompute import Recompute, recompute_if
from model.settings.settings import load_config
from model.training.roofline import EXPECTED, LINKS, find_data_sheet, least_step_seconds
from model.training.size import count_positions, flops_per_step

DIM, NUM_HEADS = 256, 4
LM_POSITIONS = 800  # as many to the width as a song of 150 s has at full size
NUM_BLOCKS = 16
LOGITS = (256, 2048, 8, 128)  # positions, ids, width, positions of a chunk
ATTENTION = "scaled_dot_product"
ATTENTION_VECTORS = 12.0
PRODUCTS = ("mm", "addmm", "bmm", "mv", "addmv")
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh")
ONE_OF_A_ROW = ("gather", "index", "index_put_", "_index_put_impl_", "nll_loss_forward")
NUM_GPUS = 16


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one layer moves, forward and backward, in vectors of the width per position."""

    products: float
    """Weights and their gradients included."""
    attention: float
    other: float
    kept: float
    """What the backward pass waits for."""

    @property
    def total(self) -> float:
        """Vectors that are read and written."""
        return self.products + self.attention + self.other


class ByteCounter(TorchDispatchMode):
    """Counts what operations read and write, by their names; attention apart, which is known."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: Counter[str] = Counter()
        self.is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and count it."""
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if self.is_paused or func.is_view or name in FREE or ATTENTION in name or name in ONE_OF_A_ROW:
            return out
        read, written = _distinct((args, kwargs)), _distinct(out)
        if name in ("zero_", "fill_", "copy_"):
            read = read[1:]  # what is written over
        self.bytes[name] += sum(map(_size, read)) + sum(map(_size, written))
        return out

    def count_graph(self, lowered: GraphLowering) -> FileBackedGraphModule:
        """Return a graph of the compiler as it stands; every run counts what its fused kernels read and write."""
        lowered.init_wrapper_code()
        lowered._update_scheduler()
        kernels: Counter[str] = Counter()
        for node in lowered.scheduler.nodes:
            moved = sum(node.get_read_write_buffer_accesses(include_reads=True, include_writes=True).values())
            name = getattr(node.node, "python_kernel_name", None)  # of what is not fused, such as extern_kernels.mm
            if ATTENTION not in str(name):
                kernels["fused" if name is None else name.split(".")[-1]] += moved
        graph: Any = lowered.module

        def run(*arguments: Any) -> Any:
            self.bytes.update(kernels)
            before, self.is_paused = self.is_paused, True
            try:
                return graph(*arguments)
            finally:
                self.is_paused = before

        return FileBackedGraphModule(graph, run)


def _distinct(values: Any) -> list[Tensor]:
    found = {id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}
    return list(found.values())


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor's distinct numbers: what is expanded lies in memory once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size]
    return tensor.element_size() * functools.reduce(int.__mul__, sizes, 1)


@contextmanager
def counted_compiler(counter: ByteCounter) -> Iterator[None]:
    """Let what is compiled in here count its kernels; modes do not reach into it, as it would not compile then."""
    compile_ = torch.compile

    def compile_apart(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        compiled = compile_(function, **options)

        def run(*arguments: Any, **named: Any) -> Any:
            with _disable_current_modes():
                return compiled(*arguments, **named)

        return run

    torch._dynamo.reset()
    with (
        patch.object(torch, "compile", compile_apart),
        patch.object(GraphLowering, "codegen", lambda lowered: (counter.count_graph(lowered), None)),
        inductor_config.patch(fx_graph_cache=False),
        functorch_config.patch(enable_autograd_cache=False),
    ):
        yield
    torch._dynamo.reset()


def _make_layer(stack: str, recompute: Recompute) -> tuple[torch.nn.Module, Tensor, Callable[..., Tensor]]:
    """Return a layer, an input, and how the stack calls it."""
    config = ModelConfig(dim=DIM, num_heads=NUM_HEADS)
    torch.manual_seed(0)
    if stack == "lm":
        lm_layer, positions = LmLayer(config, checkpoint_activations=recompute).bfloat16(), LM_POSITIONS
        rotary = rotary_table(torch.arange(positions), config.head_dim, config.lm_rope_base)

        def attend(*sequence: Tensor) -> Tensor:
            query, key, value = (x.transpose(0, 1)[None] for x in sequence)
            return scaled_dot_product_attention(query, key, value, is_causal=True)[0].transpose(0, 1)

        x = torch.randn(positions, DIM).bfloat16().requires_grad_()
        return lm_layer, x, lambda x: recompute_if(recompute is True, lm_layer, x, rotary, attend)
    layer = DitLayer(config, checkpoint_activations=recompute).bfloat16()
    _, positions = count_positions(config, config.block_frames, 0, 0)
    rotary = rotary_table(torch.arange(positions), config.dit_rotary_dim, config.dit_rope_base)
    x = torch.randn(NUM_BLOCKS, positions, DIM).bfloat16().requires_grad_()
    time_ND = torch.zeros(NUM_BLOCKS, DIM).bfloat16()
    return layer, x, lambda x: recompute_if(recompute is True, layer, x, rotary, time_ND, None)


def count_layer(stack: str, recompute: Recompute, *, is_compiled: bool) -> Traffic:
    """Return what a layer of the LM ("lm") or the DiT ("dit") moves in bf16, forward and backward."""
    counter = ByteCounter()
    layer, x, run = _make_layer(stack, recompute)
    weights = {parameter.untyped_storage()._cdata for parameter in layer.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    def step(counted: bool) -> None:
        layer.zero_grad()
        x.grad = None
        if not counted:
            run(x).sum().backward()
            return
        gradient = torch.randn(x.shape).bfloat16()
        with counter:
            with saved_tensors_hooks(pack, lambda tensor: tensor):
                out = run(x)
            out.backward(gradient)

    if is_compiled:
        with counted_compiler(counter):
            if isinstance(layer, LmLayer):
                layer.compile_parts()
            else:
                layer.compile(dynamic=True)
            step(counted=False)
            counter.bytes.clear()
            step(counted=True)
    else:
        step(counted=True)
    vector = x.element_size() * x.numel()
    products = sum(counter.bytes[name] for name in PRODUCTS)
    return Traffic(
        products=products / vector,
        attention=ATTENTION_VECTORS + 4.0 * (recompute is True),
        other=(counter.bytes.total() - products) / vector,
        kept=sum(storage.nbytes() for storage in kept.values()) / vector,
    )


def count_head(*, is_compiled: bool) -> float:
    """Return what the head moves in bf16 per logit, in bytes, its four products included, when chunks are several."""
    counter = ByteCounter()
    positions, num_ids, dim, chunk = LOGITS
    torch.manual_seed(0)
    states, classify, bias = torch.randn(positions, dim), torch.randn(num_ids, dim), torch.randn(num_ids)
    inputs = [x.bfloat16().requires_grad_() for x in (states, classify, bias)]
    targets = torch.randint(0, num_ids, (positions,))

    def step(kernels: Any) -> None:
        ce, _ = score_tokens(inputs[0], targets, inputs[1], inputs[2], chunk, kernels)
        ce.sum().backward()

    if is_compiled:
        with counted_compiler(counter):
            kernels = compile_kernels()
            step(kernels)
            counter.bytes.clear()
            with counter:
                step(kernels)
    else:
        with counter:
            step(None)
    return counter.bytes.total() / (positions * num_ids)


def expect_mfu(name: str, *, is_compiled: bool, recompute: Recompute) -> dict[str, float]:
    """Return the least seconds of a step of full.yaml on 16 GPUs, by part, and the MFU that they make, in percent."""
    share, link = EXPECTED[name]
    run = load_config("full.yaml")
    trainer = replace(run.trainer, compile_layers=is_compiled, checkpoint_activations=recompute)
    run, gpu = replace(run, trainer=trainer), find_data_sheet(name)
    assert gpu is not None
    num_frames = run.data.max_crop_frames // run.model.block_frames * run.model.block_frames
    flops = flops_per_step(run.model, [num_frames] * trainer.batch_size)["total"]
    least = least_step_seconds(run, NUM_GPUS, gpu, LINKS[link])
    return least | {"mfu": 100 * flops / (NUM_GPUS * gpu.flops * least["total"]), "aim": 100 * share}


def make_table(counts: dict[str, dict[str, Traffic]], logits: dict[str, float], recompute: Recompute) -> str:
    """Return counts and what follows from them as Markdown."""
    lines = ["| layer | | products | attention | other | all | kept |", "|---|---|---|---|---|---|---|"]
    for layer, ways in counts.items():
        for way, traffic in ways.items():
            figures = (traffic.products, traffic.attention, traffic.other, traffic.total, traffic.kept)
            lines.append(f"| {layer} | {way} | {' | '.join(f'{figure:.1f}' for figure in figures)} |")
    lines += ["", "| bytes per logit | |", "|---|---|"]
    lines += [f"| {way} | {figure:.1f} |" for way, figure in logits.items()]
    parts = ("products", "attention", "moved_bytes", "optimizer", "communication", "total")
    lines += ["", f"| {NUM_GPUS} GPUs | | {' | '.join(parts)}, s | MFU at most | aim |", f"|{'---|' * 10}"]
    for name in EXPECTED:
        for is_compiled in (False, True):
            least = expect_mfu(name, is_compiled=is_compiled, recompute=recompute)
            seconds = " | ".join(f"{least[part]:.3f}" for part in parts)
            way = "compiled" if is_compiled else "not compiled"
            lines.append(f"| {name} | {way} | {seconds} | {least['mfu']:.1f} % | {least['aim']:.0f} % |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.bench bytes", description=__doc__)
    parser.add_argument("--recompute", choices=list(RECOMPUTE), default="cheap", help="(default: cheap)")
    parser.add_argument(
        "--without-compiler", action="store_true", help="leave out what is compiled, which takes minutes"
    )
    options = parser.parse_args(arguments)
    ways = {"not compiled": False} | ({} if options.without_compiler else {"compiled": True})
    recompute = RECOMPUTE[options.recompute]
    counts = {
        layer: {way: count_layer(stack, recompute, is_compiled=is_compiled) for way, is_compiled in ways.items()}
        for layer, stack in (("LM", "lm"), ("DiT", "dit"))
    }
    logits = {way: count_head(is_compiled=is_compiled) for way, is_compiled in ways.items()}
    sys.stdout.write(make_table(counts, logits, recompute))
    found = {layer: {way: asdict(traffic) for way, traffic in found.items()} for layer, found in counts.items()}
    summary = {"recompute": options.recompute, "vectors": found, "bytes_per_logit": logits, "torch": torch.__version__}
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0
