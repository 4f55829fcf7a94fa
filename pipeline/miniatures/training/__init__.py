"""Training of the miniature models on synthetic songs: CPU, fixed seeds, one module per model."""
