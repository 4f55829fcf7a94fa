"""The joint LM + DiT song model and its trainer: learns from shards, knows no raw audio and no cluster."""
