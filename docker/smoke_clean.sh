#!/usr/bin/env bash
# Cleans a bundled song with the miniature models and encodes it: shows in a minute that an environment or an image
# works. No GPU, no hub, no running Ray. Python is the one on the path. Exit code 0: it works.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 RAY_ADDRESS=local SONGBLOOM_PROFILE=miniature

song="$(find "$root/jobs" -type d -name 01_clean -print -quit)"
mkdir -p "$work/raw/song"
cp "$song/mixture.opus" "$song/lyrics.txt" "$work/raw/song/"

python "$root/jobs/clean_lyrics.py" --in "$work/raw" --out "$work/clean"
python "$root/jobs/extract_tokens.py" --in "$work/raw" --clean "$work/clean" --out "$work/shards"
python -m shards verify "$work/shards"
