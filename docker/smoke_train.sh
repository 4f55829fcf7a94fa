#!/usr/bin/env bash
# Trains the miniature model for one step on songs of noise: shows that an environment or an image works. No GPU; the
# first time DeepSpeed compiles an extension for about a minute. Python is the one on the path. Exit code 0: it works.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

python - "$work/shards" <<'PYTHON'
import sys
from pathlib import Path

from shards.bench_data import write_bench_dataset

write_bench_dataset(Path(sys.argv[1]), num_songs=2, seconds=(40, 40), phonemes_per_line=8)
PYTHON
python -m shards verify "$work/shards"
deepspeed --quiet --num_accelerators 1 "$root/model/train.py" --config miniature.yaml \
    --data "$work/shards" --out "$work/run" --max-steps 1
