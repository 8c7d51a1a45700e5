from typing import Any

import pytest

from torchscript_operator.export.untie import untie


@pytest.fixture
def tied() -> Any:
    """A masked language model whose decoder is its embedding."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(1)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return BertForMaskedLM(config).eval()


def weights(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


def test_tied_head_gets_weights_of_its_own_with_the_same_values(tied: Any) -> None:
    import torch

    before = [weight.data_ptr() for weight in weights(tied)]
    clones = untie(tied)
    embedding, decoder = weights(tied)

    assert before[0] == before[1]
    assert clones >= 1
    assert embedding.data_ptr() != decoder.data_ptr()
    assert torch.equal(embedding, decoder)


def test_outputs_do_not_change(tied: Any) -> None:
    import torch

    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = tied(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        untie(tied)
        after = tied(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    assert torch.equal(before, after)


def test_changing_one_weight_leaves_the_other(tied: Any) -> None:
    untie(tied)
    embedding, decoder = weights(tied)
    embedding.data.zero_()

    assert decoder.abs().sum() > 0


def test_traced_model_holds_independent_weights(tied: Any) -> None:
    import warnings

    import torch

    untie(tied)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = torch.arange(10)[None]
        traced = torch.jit.trace(tied, (ids, torch.ones_like(ids)), strict=False, check_trace=False)  # type: ignore[no-untyped-call]
    large = [value.data_ptr() for value in traced.state_dict().values() if value.shape == (50, 16)]

    assert len(large) == len(set(large)) == 2


def test_second_time_finds_nothing_to_do(tied: Any) -> None:
    untie(tied)

    assert untie(tied) == 0


def test_model_without_shared_weights_is_left_alone() -> None:
    from torch import nn

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = [parameter.data_ptr() for parameter in model.parameters()]

    assert untie(model) == 0
    assert [parameter.data_ptr() for parameter in model.parameters()] == before


def test_parameter_over_the_memory_of_another_is_tied_too() -> None:
    from torch import nn

    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = nn.Parameter(first.weight.data)

    assert untie(nn.Sequential(first, second)) == 1
    assert first.weight.data_ptr() != second.weight.data_ptr()
