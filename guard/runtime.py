"""The two libraries that a monitor runs on, set up for one text at a time on a busy server."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from guard.errors import MalformedArtifact
from guard.expansion import check_expansion
from guard.manifest import ONNX_FILE, TOKENIZER_FILE
from guard.matcher import check_graph
from guard.reading import failed


def load_tokenizer(data: bytes) -> Tokenizer:
    """Load a ``tokenizer.json`` so that it encodes all of a text, and the same text always alike.

    Raises
    ------
    MalformedArtifact
        It cannot be loaded, makes texts very much longer, or tokenises at random.
    """
    check_expansion(data)
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except BaseException as error:
        if not failed(error):
            raise
        raise MalformedArtifact(f"{TOKENIZER_FILE} is no tokenizer ({error})") from error
    if getattr(tokenizer.model, "dropout", None):
        raise MalformedArtifact(
            f"{TOKENIZER_FILE} has a BPE dropout, so it tokenises at random; set it to null"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


_OUTPUTS = ("match", "length")

# How many n-grams are put through the graph at a time, a row each.
_PROVEN = 8192


class Graph:
    """The matcher in ``monitor.onnx``, on one thread.

    Parameters
    ----------
    data
        The bytes of the file.

    Attributes
    ----------
    metadata
        What the file says about itself.

    Raises
    ------
    MalformedArtifact
        It cannot be loaded, or is not what guard writes.
    """

    def __init__(self, data: bytes) -> None:
        # Before it is loaded: that already computes what does not depend on the input.
        check_graph(data)
        self._session = open_session(data, ONNX_FILE)
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def find(self, rows: Sequence[Sequence[int]]) -> list[list[tuple[int, int, int]]]:
        """Return place, number and length of the longest n-gram at each place of each row."""
        # One row for all. No id is negative, so no n-gram reaches across the -1 between two rows,
        # and unlike a padded batch this costs no more than the ids that there are.
        line: list[int] = []
        for row in rows:
            line += row
            line.append(-1)
        numbers, lengths = self._session.run(
            _OUTPUTS, {"input_ids": np.array([line], dtype=np.int64)}
        )
        found: list[list[tuple[int, int, int]]] = [[] for _ in rows]
        places = numbers.nonzero()[1]
        if places.size:
            begins = np.fromiter(accumulate((len(row) + 1 for row in rows), initial=0), np.int64)
            owners = np.searchsorted(begins, places, side="right") - 1
            for owner, *hit in zip(
                owners.tolist(),
                (places - begins[owners]).tolist(),
                numbers[0, places].tolist(),
                lengths[0, places].tolist(),
                strict=True,
            ):
                found[owner].append((hit[0], hit[1], hit[2]))
        return found

    def knows(self, ngrams: Sequence[Sequence[int]]) -> bool:
        """Whether it finds each of these n-grams, which are all of its own, shorter ones first.

        Raises
        ------
        MalformedArtifact
            Its tables lead out of themselves.
        """
        number = 0
        for length, group in groupby(ngrams, len):
            rows = list(group)
            for start in range(0, len(rows), _PROVEN):
                part = np.array(rows[start : start + _PROVEN], dtype=np.int64)
                try:
                    numbers, lengths = self._session.run(_OUTPUTS, {"input_ids": part})
                except Exception as error:  # onnxruntime raises no common one
                    raise MalformedArtifact(f"{ONNX_FILE} cannot be run ({error})") from error
                expected = np.arange(number + 1, number + 1 + len(part))
                if (numbers[:, 0] != expected).any() or (lengths[:, 0] != length).any():
                    return False
                number += len(part)
        return True


def open_session(data: bytes, name: str) -> onnxruntime.InferenceSession:
    """Load a graph for one thread of a busy server.

    Raises
    ------
    MalformedArtifact
        It cannot be loaded, or needs other files. `name` is the file's in the message.
    """
    # A tensor that is kept in another file names it by this key. Nothing of ours holds the word.
    if b"location" in data:
        raise MalformedArtifact(f"{name} refers to data outside of it; compile anew")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    # Neither keeps memory for the largest text, or for each length of text, that ever came.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises no common one
        raise MalformedArtifact(f"{name} cannot be loaded ({error})") from error
