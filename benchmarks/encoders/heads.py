"""Train masked language models: whole small ones, and the head that a checkpoint lacks."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from benchmarks import training
from benchmarks.attacks.head import masked_loss, under_head
from benchmarks.attacks.samples import Sampler
from benchmarks.tasks import plain_texts

HEAD_STEPS = 300


def train_head(encoder: Path, out: Path, checkpoint: Path | None) -> None:
    """Train a masked language model's head on an encoder that stays as it is."""
    torch.manual_seed(0)
    base = AutoModel.from_pretrained(encoder, use_safetensors=True)
    whole = under_head(base, AutoModelForMaskedLM.from_pretrained(encoder, use_safetensors=True))
    base.requires_grad_(False)
    pretrain(whole, encoder, out, checkpoint, steps=HEAD_STEPS, learning_rate=1e-3)


def pretrain(
    whole: PreTrainedModel,
    tokenizer_from: Path,
    out: Path,
    checkpoint: Path | None,
    *,
    steps: int,
    learning_rate: float,
) -> None:
    """Train a masked language model on the plain texts, and save it."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    sampler = Sampler(tokenizer, plain_texts(), (), seed=0)
    torch.nn.Module.to(whole, training.device()).train()
    loss = masked_loss(whole)
    training.train(
        whole,
        lambda: loss(sampler.masked()),
        sampler,
        steps=steps,
        learning_rate=learning_rate,
        checkpoint=checkpoint,
        label="masked language model",
    )
    torch.nn.Module.to(whole, "cpu").eval()
    whole.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
