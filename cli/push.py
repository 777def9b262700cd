"""The verb push-shards: the finished shards sent to a store, by one function of safe."""

import os
import sys
from pathlib import Path

from cli.layout import Layout, lock, open_store, read
from cli.progress import counts, progress, say
from safe.config import Config
from safe.errors import ConfigError, DataError
from safe.files import hold_lock


def run_push(params: Path, overrides: list[str] | None, url: str | None) -> None:
    """Send data/<name>/shards to `url`, or to runtime.shards."""
    # Given as a parameter, the URL is checked as every other.
    given = [] if url is None else [f"runtime.shards='{url}'"]
    config, layout = read(params, [*(overrides or []), *given])
    if config.runtime.shards is None:
        raise ConfigError("push-shards: no URL; give one, or set runtime.shards")
    _push(config, layout, config.runtime.shards)


def check_reach(config: Config) -> None:
    """Before shards are made: ask the store of runtime.shards, if any, for its names.

    Raises:
        DataError: if it does not answer, or refuses.
    """
    if config.runtime.shards is not None:
        open_store(config, config.runtime.shards).sizes()


def push_made(config: Config, layout: Layout) -> None:
    """Send the shards that were just made to runtime.shards, if that is a URL.

    A run of DVC goes on where this fails: it would else delete finished shards and make them again.
    Its next stage, train, does not read other shards than these (cli.layout.source).

    Raises:
        DataError: as push_shards, if DVC did not start this.
    """
    if config.runtime.shards is None:
        return
    try:
        _push(config, layout, config.runtime.shards)
    except DataError as error:
        told = f"{error}. {layout.shards} is complete: only `safe-cli push-shards` is left to do"
        if "DVC_ROOT" not in os.environ:
            raise DataError(told) from error
        print(f"shard: not sent: {told}", file=sys.stderr)


def _push(config: Config, layout: Layout, url: str) -> None:
    from safe.shards.push import push_shards

    total = len(list(layout.shards.glob("*.tar"))) + 2
    with hold_lock(lock(layout.shards), str(layout.shards)), progress("push", total) as done:
        made = push_shards(layout.shards, open_store(config, url), seen=layout.seen, on_done=done)
    say(counts(f"push-shards: {url}", made))
