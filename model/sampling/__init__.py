"""Writing songs."""
