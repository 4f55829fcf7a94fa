"""The run: ranks, DeepSpeed, steps, progress and boards."""
