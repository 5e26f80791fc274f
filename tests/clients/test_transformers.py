"""Transformers: a tiny Llama whose gated blocks (gate_proj, up_proj, act_fn, down_proj) convert."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

import manualbp
from tests.helpers import differing

pytestmark = pytest.mark.clients

STEPS, LAYERS = 8, 2


def llama(by_hand: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    return manualbp.convert(model) if by_hand else model


def trained(by_hand: bool) -> dict[str, Tensor]:
    """Every loss, the weights at the end."""
    model = llama(by_hand)
    tokens = torch.randint(0, 64, (4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), **model.state_dict()}


def test_same_training(calls: Counter[str]) -> None:
    """Bit-exact: every loss and all weights."""
    theirs = trained(by_hand=False)
    assert not calls
    ours = trained(by_hand=True)
    assert calls["Gated"] == STEPS * LAYERS
    assert differing(ours, theirs) == []
    assert ours["losses"][-1] < ours["losses"][0]


def test_same_text() -> None:
    """Bit-exact: the tokens generated, greedily, with a cache."""
    prompt = torch.tensor([[1, 2, 3]])
    texts = [
        llama(by_hand).eval().generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for by_hand in (True, False)
    ]
    assert torch.equal(*texts)


def test_blocks_stay_what_they_are() -> None:
    """Converted, a block is a LlamaMLP still, with the same state_dict, and runs by hand."""
    model, theirs = llama(by_hand=True), llama(by_hand=False)
    assert list(model.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 5, 32)
    for layer in model.model.layers:
        assert isinstance(layer.mlp, LlamaMLP)
        assert type(layer.mlp(x).grad_fn).__name__ == "GatedBackward"


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    assert differing(trained(by_hand=True), trained(by_hand=False))
