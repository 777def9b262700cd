"""How are the finished shards sent to a store? By one function of safe."""

from pathlib import Path

from cli.layout import lock, open_store, read
from cli.progress import counts, progress, say
from safe.errors import ConfigError
from safe.process import only_one


def run_push(params: Path, overrides: list[str] | None, url: str | None) -> None:
    """Send data/<name>/shards to `url`, or to runtime.shards."""
    # Given as a parameter, the URL is checked as every other.
    given = [] if url is None else [f"runtime.shards='{url}'"]
    config, layout = read(params, [*(overrides or []), *given])
    if config.runtime.shards is None:
        raise ConfigError("push-shards: no URL; give one, or set runtime.shards")
    from safe.push import push_shards

    total = len(list(layout.shards.glob("*.tar"))) + 2
    with only_one(lock(layout.shards), str(layout.shards)), progress("push", total) as done:
        made = push_shards(
            layout.shards,
            open_store(config, config.runtime.shards),
            seen=layout.seen,
            on_done=done,
        )
    say(counts(f"push-shards: {config.runtime.shards}", made))
