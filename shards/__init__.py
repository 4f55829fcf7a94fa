"""The shard format: what extraction writes and training reads. No audio model, no torch."""
