"""The joint model: its parts, losses, draws and batches."""
