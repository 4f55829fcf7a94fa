"""What a shard may be called: a name from an index never leads anywhere but into the dataset."""

import re

from shards.schema import SPLITS, ShardError

_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})/[A-Za-z0-9_][A-Za-z0-9_.-]{{0,199}}\.tar")


def parse_shard_name(shard: str) -> tuple[str, str]:
    """Return the split of `shard` and `shard` itself, if it is a name that stays inside the dataset.

    Raises:
        ShardError: not `<split>/<name>.tar` with a plain name.
    """
    match = _SHARD_NAME.fullmatch(shard)
    if match is None:
        raise ShardError(f"shard {shard!r}: expected {' or '.join(SPLITS)}, a slash, a plain name, .tar")
    return match.group(1), shard
