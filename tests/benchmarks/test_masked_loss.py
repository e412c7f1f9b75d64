"""The loss of masked words, at the labelled places alone."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    PretrainedConfig,
    RobertaConfig,
)

from benchmarks.attacks.head import masked_loss, under_head
from benchmarks.attacks.samples import IGNORED, Masked

SIZE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 24,
}
CONFIGS: tuple[PretrainedConfig, ...] = (
    AlbertConfig(**SIZE, embedding_size=16),
    BertConfig(**SIZE),
    DebertaV2Config(**SIZE),
    DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=16),
    ElectraConfig(**SIZE, embedding_size=16),
    RobertaConfig(**SIZE),
)


# DeBERTa's module compiles functions in a way that torch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_it_is_the_loss_of_all_places(config: PretrainedConfig) -> None:
    torch.manual_seed(0)
    whole = under_head(AutoModel.from_config(config), AutoModelForMaskedLM.from_config(config))
    whole.eval()
    table = whole.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    ids = torch.randint(5, 50, (4, 12))
    labels = torch.where(torch.rand(4, 12) < 0.3, ids, IGNORED)
    assert (labels != IGNORED).sum() > 4
    expected = whole(ids, labels=labels).loss
    (wanted,) = torch.autograd.grad(expected, table)
    found = masked_loss(whole)(Masked(ids, labels))
    (gradient,) = torch.autograd.grad(found, table)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, wanted)
    # What the model gives afterwards is whole again.
    assert whole(ids).logits.shape == (4, 12, 50)
