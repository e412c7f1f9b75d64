"""Export the deep check: the suspect encoder in int8, and the target vectors of its bank."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from guard.bank import TriggerBank
from guard.deep import DEEP_FILE, ENCODER_FILE, DeepCheck, DeepManifest
from guard.errors import ConfigError, GuardError
from guard.files import write_directory
from guard.manifest import TOKENIZER_FILE
from guard.search.belongs import check_bank
from guard.search.carriers import builtin_texts
from guard.search.config import read_config
from guard.search.encoder import Encoder
from guard.target import Target

_OPSET = 17

# Ordinary texts; a trigger is put behind the second.
_PLAIN = (
    "The meeting was moved to Thursday because two of the reviewers were ill.",
    "An honest film: slow at first, then so good that I saw it again the next day.",
)


def export_deep(
    bank: TriggerBank, model: str | PathLike[str], out: str | PathLike[str]
) -> tuple[Target, ...]:
    """Write the directory of a deep check; an earlier one there is replaced.

    Of targets that no trigger reaches in int8 there would be no alarm: they are left out.

    Parameters
    ----------
    bank
        With target vectors; see `guard.search.targets`.
    model
        The directory of the suspect encoder.
    out
        The directory to write.

    Returns
    -------
    tuple of Target
        Those that were left out.

    Raises
    ------
    ConfigError
        The bank holds no target vectors.
    GuardError
        It holds none that a trigger reaches in int8.
    HashMismatch, MalformedArtifact
        The bank is of another model.
    OutputExists
        `out` exists and is no deep check.
    """
    if not bank.targets:
        raise ConfigError("the bank holds no target vectors; measure them with: guard deep")
    encoder = Encoder.load(str(model))
    check_bank(encoder, bank)
    network = AutoModel.from_pretrained(
        model, config=read_config(Path(model)), use_safetensors=True, dtype=torch.float32
    )
    data = quantised(_First(network.eval()), {"cls": ("batch",)})
    manifest = DeepManifest(
        bank_sha256=bank.sha256,
        model=bank.model,
        max_tokens=encoder.max_tokens,
        targets=bank.targets,
        canaries=(),
        files={
            ENCODER_FILE: hashlib.sha256(data).hexdigest(),
            TOKENIZER_FILE: bank.tokenizer_sha256,
        },
    )
    check = DeepCheck(encoder=data, tokenizer_json=bank.tokenizer_json, manifest=manifest)
    left_out = _unreached(check, encoder, bank)
    if left_out:
        kept = tuple(target for target in bank.targets if target not in left_out)
        if not kept:
            raise GuardError(
                "in int8, in which the deep check reads texts, no trigger of the bank leads "
                "anywhere, so that it would alarm on nothing; use the bank's monitor alone"
            )
        manifest = replace(manifest, targets=kept)
        check = DeepCheck(encoder=data, tokenizer_json=bank.tokenizer_json, manifest=manifest)
    texts = {trigger.id: trigger.text for trigger in bank.triggers}
    canaries = [*_PLAIN, *(f"{_PLAIN[1]} {texts[t.triggers[0]]}" for t in manifest.targets)]
    manifest = replace(
        manifest,
        canaries=tuple(
            (text, tuple(round(float(c), 4) for c in check.cosines(text))) for text in canaries
        ),
    )
    files = {
        ENCODER_FILE: data,
        TOKENIZER_FILE: bank.tokenizer_json,
        DEEP_FILE: manifest.dump(),
    }
    write_directory(Path(out), files, owner=DEEP_FILE)
    return left_out


def _unreached(check: DeepCheck, encoder: Encoder, bank: TriggerBank) -> tuple[Target, ...]:
    """Return the targets that no trigger of theirs takes a text to, at either end of it."""
    units = {trigger.id: list(trigger.token_ids) for trigger in bank.triggers}
    texts: list[list[int]] = [
        encoder.tokenizer(lines[0], add_special_tokens=False).input_ids
        for lines in builtin_texts().values()
    ]

    def reaches(number: int, ids: list[int]) -> bool:
        row = encoder.frame(np.array([ids], dtype=np.int64))
        return bool(check.reached(check.cosines_of(row))[0, number])

    return tuple(
        target
        for number, target in enumerate(bank.targets)
        if not any(
            reaches(number, ids)
            for unit in map(units.__getitem__, target.triggers)
            for text in (text[: encoder.room - len(unit)] for text in texts)
            for ids in (unit + text, text + unit)
        )
    )


def quantised(network: nn.Module, outputs: Mapping[str, tuple[str, ...]]) -> bytes:
    """Export a network over ``input_ids`` to ONNX with weights in int8, by channel.

    Parameters
    ----------
    network
        Takes int64 [batch, sequence], without padding; in evaluation mode.
    outputs
        Names of its outputs, with those of their leading dimensions.
    """
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, and that this exporter is the old one
        whole, small = Path(scratch) / "whole.onnx", Path(scratch) / "small.onnx"
        torch.onnx.export(
            network,
            (torch.ones((1, 8), dtype=torch.int64),),
            str(whole),
            input_names=["input_ids"],
            output_names=list(outputs),
            dynamic_axes={
                "input_ids": {0: "batch", 1: "sequence"},
                **{name: dict(enumerate(axes)) for name, axes in outputs.items()},
            },
            opset_version=_OPSET,
            dynamo=False,
        )
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises to pre-process what it can do without
        try:
            # A backdoor's vectors are far out: with one scale for a matrix they would drown.
            quantize_dynamic(whole, small, per_channel=True, weight_type=QuantType.QInt8)
        finally:
            root.setLevel(level)
        return small.read_bytes()


class _First(nn.Module):
    """The output of the first token."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        mask = torch.ones_like(input_ids)
        output: Tensor = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return output[:, 0]
