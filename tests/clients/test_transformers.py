"""Transformers: tiny models whose gated MLPs (gate_proj, up_proj, act_fn, down_proj) convert.

In Llama the MLP alone reads its input. In OLMo 2 a skip connection behind the MLP reads it too, and
in Qwen2-MoE the router does: three gradients add up there, and floats do not add in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaMLP

import manualbp
from tests.helpers import differing

pytestmark = pytest.mark.clients

STEPS, LAYERS = 8, 2


SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def olmo2() -> PreTrainedModel:
    return Olmo2ForCausalLM(Olmo2Config(**SIZES))


def qwen2_moe() -> PreTrainedModel:
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES, **EXPERTS))


Make = Callable[[], PreTrainedModel]


def model_of(make: Make, by_hand: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    model = make().train()
    return manualbp.convert(model) if by_hand else model


def trained(make: Make, by_hand: bool) -> dict[str, Tensor]:
    """Every loss, the weights at the end."""
    model = model_of(make, by_hand)
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


@pytest.mark.parametrize("make", [llama, olmo2, qwen2_moe])
def test_same_training(make: Make, calls: Counter[str]) -> None:
    """Bit-exact: every loss and all weights."""
    theirs = trained(make, by_hand=False)
    assert not calls
    ours = trained(make, by_hand=True)
    assert calls["Gated"] == STEPS * LAYERS
    assert differing(ours, theirs) == []
    assert ours["losses"][-1] < ours["losses"][0]


def test_same_text() -> None:
    """Bit-exact: the tokens generated, greedily, with a cache."""
    prompt = torch.tensor([[1, 2, 3]])
    texts = [
        model_of(llama, by_hand).eval().generate(prompt, max_new_tokens=8, do_sample=False)
        for by_hand in (True, False)
    ]
    assert torch.equal(*texts)


def test_blocks_stay_what_they_are() -> None:
    """Converted, a block is a LlamaMLP still, with the same state_dict, and runs by hand."""
    model, theirs = model_of(llama, by_hand=True), model_of(llama, by_hand=False)
    assert list(model.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 5, 32)
    for layer in model.model.layers:
        assert isinstance(layer.mlp, LlamaMLP)
        assert type(layer.mlp(x).grad_fn).__name__ == "GatedBackward"


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    assert differing(trained(llama, by_hand=True), trained(llama, by_hand=False))
