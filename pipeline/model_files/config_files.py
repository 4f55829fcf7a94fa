"""Small JSON files of a model: bounded, and objects."""

import json
from pathlib import Path
from typing import Any

from pipeline.model_files.errors import ModelFileError

_MAX_CONFIG_BYTES = 10 << 20  # a config.json is a few kB


def read_config(path: Path) -> dict[str, Any]:
    """Read a model's config.json: a JSON object of at most 10 MiB."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes > _MAX_CONFIG_BYTES:
            raise ModelFileError(f"{path}: {num_bytes} bytes, expected a JSON object of at most {_MAX_CONFIG_BYTES}")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: {error}; expected a readable JSON object") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: a JSON {type(config).__name__}, expected an object")
    return config
