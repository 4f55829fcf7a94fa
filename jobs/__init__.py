"""Commands: the pipeline, the shards and the model wired to Ray. No signal processing, no tensor maths."""
