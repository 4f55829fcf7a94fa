"""Weights in and out: checkpoints, released files, fine-tuning."""
