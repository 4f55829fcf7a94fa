"""From shards to batches: songs, crops and which rank computes which."""
