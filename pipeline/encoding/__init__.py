"""One cleaned song becomes latents, tokens, prompts and its place in a shard."""
