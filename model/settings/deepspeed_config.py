"""The section `deepspeed` of a run: keys that go to DeepSpeed as they stand, and those that must not.

What this trainer decides itself, such as batch size, schedule and precision, stands in its own sections; a second
opinion here is refused. Everything else passes.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from model.network.config import ConfigError, require

# The first level that DeepSpeed 0.19.8 reads (runtime/config.py and what it imports); it ignores other names silently.
TOP_LEVEL = (
    "activation_checkpointing", "aio", "amp", "autotuning", "bf16", "bfloat16", "checkpoint", "comet",
    "comms_logger", "communication_data_type", "compile", "csv_monitor", "curriculum_learning",
    "data_efficiency", "data_types", "datastates_ckpt", "dataloader_drop_last", "disable_allgather",
    "disable_python_gc", "dump_state", "elasticity", "expert_parallel", "flops_profiler", "fp16",
    "gradient_accumulation_steps", "gradient_allreduce_op", "gradient_clipping", "gradient_predivide_factor",
    "hybrid_engine", "log_level", "managed_gradient_accumulation", "memory_breakdown", "optimizer", "pipeline",
    "prescale_gradients", "scheduler", "seq_parallel_communication_data_type", "sparse_gradients",
    "steps_per_print", "tensor_parallel", "tensorboard", "timers", "torch_autocast",
    "train_batch_size", "train_micro_batch_size_per_gpu", "use_data_before_expert_parallelism", "wall_clock_breakdown",
    "wandb", "weight_quantization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)  # fmt: skip

# What belongs to another section, which is named instead.
ELSEWHERE = {
    "activation_checkpointing": "trainer.checkpoint_activations",
    "amp": "trainer.precision",
    "bfloat16": "trainer.precision",
    "bf16.bf16_master_weights_and_grads": "trainer.precision, whose bf16 keeps float32 master weights",
    "bf16.bf16_optimizer_states": "trainer.precision, whose bf16 keeps a float32 optimizer state",
    "compile": "trainer.compile_layers",
    "curriculum_learning": "section data",
    "data_efficiency": "section data",
    "data_types.param_dtype": "trainer.precision",
    "elasticity": "trainer.batch_size, which is the same on any number of ranks",
    "fp16": "trainer.precision",
    "gradient_accumulation_steps": "trainer.batch_size and trainer.micro_batch_size",
    "gradient_allreduce_op": "the loss, which is scaled for means over ranks",
    "managed_gradient_accumulation": "trainer.batch_size and trainer.micro_batch_size",
    "optimizer": "section optimizer",
    "pipeline": "nothing: the model is not cut into stages",
    "scheduler": "section schedule",
    "tensorboard": "report.tensorboard",
    "torch_autocast": "trainer.precision",
    "train_batch_size": "trainer.batch_size",
    "wandb": "report.wandb_project",
}
# What our own settings say too: the same value may stand here, another one may not.
SAME_AS = {
    "bf16.enabled": "trainer.precision",
    "gradient_clipping": "optimizer.clip_norm",
    "train_micro_batch_size_per_gpu": "trainer.micro_batch_size",
    "zero_optimization.stage": "trainer.zero_stage",
}


def merge_passed(settings: dict[str, Any], passed: Mapping[str, Any]) -> dict[str, Any]:
    """Return our `settings` with the keys of the section `deepspeed` laid over them.

    Raises:
        ConfigError: a key that DeepSpeed does not know, or one that contradicts another section.
    """
    for name in passed:
        if name not in TOP_LEVEL:
            near = difflib.get_close_matches(str(name)[:100], TOP_LEVEL, n=1, cutoff=0.0)[0]
            raise ConfigError(f"deepspeed: unknown key {name!r:.100}; did you mean '{near}'?")
    leaves = _flatten(passed)
    own = _flatten(settings)
    for key, value in leaves.items():
        for owned, place in ELSEWHERE.items():
            require(
                key != owned and not key.startswith(f"{owned}."),
                f"deepspeed.{owned} is set, but that is decided by {place}; take it out of the section deepspeed",
            )
        if key in SAME_AS and value != own[key]:
            raise ConfigError(
                f"deepspeed.{key} is {value!r:.100}, expected {own[key]!r}, which {SAME_AS[key]} says; set that instead"
            )
    merged = _lay_over(settings, passed)
    _check_zero(merged)
    return merged


def _check_zero(settings: Mapping[str, Any]) -> None:
    """Refuse settings under which DeepSpeed does something else than what they say."""
    zero = settings["zero_optimization"]
    stage = zero["stage"]
    for name, least in (("offload_optimizer", 1), ("offload_param", 3)):
        offload = zero.get(name) or {}
        device = offload.get("device", "none") if isinstance(offload, Mapping) else offload
        require(
            device in ("none", "cpu"),
            f"deepspeed.zero_optimization.{name}.device is {device!r:.100}, expected cpu or none: checkpoints read the "
            "state by parameter name, which has no name on a disk",
        )
        require(
            device == "none" or stage >= least,
            f"deepspeed.zero_optimization.{name} moves tensors to the CPU, which trainer.zero_stage {stage} ignores; "
            f"expected a stage of {least} or more",
        )
    gradients = settings.get("data_types", {}).get("grad_accum_dtype")
    if stage == 1 and settings["bf16"]["enabled"]:
        is_offloaded = (zero.get("offload_optimizer") or {}).get("device", "none") == "cpu"
        require(
            gradients in (None, "bf16", "bfloat16") or is_offloaded,
            "trainer.zero_stage is 1 and trainer.precision bf16: for float32 sums of gradients DeepSpeed takes its "
            "BF16_Optimizer, which holds all of them on every rank and adds them up without overlap; expected "
            "zero_stage 2 or 3, or deepspeed: {data_types: {grad_accum_dtype: bf16}}, which sums in bfloat16",
        )


def _lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        is_section = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _lay_over(merged[key], value) if is_section else value
    return merged


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        is_section = isinstance(value, Mapping) and value
        flat |= _flatten(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
    return flat
