"""Modules as people write them, converted: what is served is what they give."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from bilstm_server.exporting import ExportError, convert
from bilstm_server.model.config import ModelConfig

from .judge import assert_same
from .models import (
    activity,
    attention,
    calls,
    classifiers,
    crfs,
    decoders,
    labels,
    leaving,
    others,
    refused,
    speech,
    stateful,
    taggers,
    windows,
)
from .models.case import Case, seeded

KINDS = (
    activity,
    attention,
    calls,
    classifiers,
    crfs,
    decoders,
    labels,
    leaving,
    others,
    speech,
    stateful,
    taggers,
    windows,
)
CASES: list[Case] = [case for kind in KINDS for case in kind.CASES]


def named(cases: list[Case]) -> list[object]:
    """The cases as parameters of a test."""
    return [pytest.param(case, id=case.name) for case in cases]


def config_of(case: Case) -> ModelConfig:
    """The config that a case becomes."""
    return convert(seeded(case.make), case.example(), **case.arguments).config


def case_of(name: str) -> Case:
    """One of the cases."""
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("case", named(CASES))
def test_what_is_served_is_what_the_module_gives(case: Case) -> None:
    """Alone and in a ragged batch, of any length, every output is the module's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = seeded(case.make)
        converted = convert(module, case.example(), **case.arguments)
        assert_same(converted, case.lengths)


@pytest.mark.parametrize("case", named(refused.CASES + leaving.REFUSED))
def test_what_has_no_layer_is_refused_in_words(case: Case) -> None:
    """The refusal is one line, and says which module, which line and what to do."""
    module = seeded(case.make)
    with pytest.raises(ExportError) as error:
        convert(module, case.example(), **case.arguments)
    assert case.refused in str(error.value)
    assert "\n" not in str(error.value)


def types_of(config: ModelConfig) -> list[str]:
    """The types of the layers, in order."""
    return [layer.model_dump()["type"] for layer in config.layers]


def test_a_module_is_left_as_it_was() -> None:
    """Converting changes neither modes nor weights nor methods of the module."""
    module = seeded(case_of("masked_crf").make).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    attributes = {name: set(vars(part)) for name, part in module.named_modules()}
    convert(module, case_of("masked_crf").example())
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert attributes == {name: set(vars(part)) for name, part in module.named_modules()}


def test_the_id_for_padding_is_found() -> None:
    """A comparison of ids with a number says which id is padding, and is no layer."""
    config = config_of(case_of("masked_mean"))
    assert config.inputs["input_ids"].padding_id == 0
    assert types_of(config) == ["embedding", "lstm", "mean", "linear", "activation"]


def test_masks_and_lengths_are_no_inputs() -> None:
    """Of tokens, features and a mask, tokens and features are the inputs."""
    assert list(config_of(case_of("keywords")).inputs) == ["tokens", "features"]


def test_well_known_outputs_have_their_names() -> None:
    """Outputs without names are named by what they are."""
    assert list(config_of(case_of("learned_states")).outputs) == [
        "states",
        "final_hidden",
        "final_cell",
    ]
    assert list(config_of(case_of("keras_like")).outputs) == ["probabilities"]
    assert list(config_of(case_of("argmax")).outputs) == ["log_probabilities", "labels"]
    assert list(config_of(case_of("heads")).outputs) == ["upos", "deprel", "labels"]


def test_labels_are_of_all_outputs_with_so_many_classes() -> None:
    """A list of labels names the scores and the ids."""
    labels = config_of(case_of("argmax")).labels
    assert labels == {"log_probabilities": ("A", "B", "C"), "labels": ("A", "B", "C")}


def test_a_loop_over_steps_is_one_layer() -> None:
    """A head that is called step by step is one linear layer."""
    types = types_of(config_of(case_of("loop_over_steps")))
    assert types == ["lstm", "linear", "activation"]


def test_attention_is_one_layer_however_it_is_written() -> None:
    """A softmax over steps and a weighted sum are one layer, which can be computed in slices."""
    for name in ("additive_attention", "self_attentive_heads", "split_heads", "softmax_by_hand"):
        types = types_of(config_of(case_of(name)))
        assert "attention" in types, name
        assert "softmax_steps" not in types, name


def test_only_the_last_step_goes_through_the_head() -> None:
    """What is computed of the last step alone is not computed of the others."""
    types = types_of(config_of(case_of("sentiment")))
    assert types[types.index("lstm") :] == ["lstm", "last", "linear", "activation"]


def test_results_can_be_named_and_left_out() -> None:
    """A list names the results in order, and None leaves one out."""
    case = case_of("learned_states")
    converted = convert(seeded(case.make), case.example(), outputs=["y", None])
    assert list(converted.config.outputs) == ["y"]
    with pytest.raises(ExportError, match="outputs: expected a name or None for each of 2"):
        convert(seeded(case.make), case.example(), outputs=["y"])


def test_a_function_says_what_is_served() -> None:
    """What a function makes of the results is recorded with the module."""
    case = case_of("keras_like")
    converted = convert(
        seeded(case.make),
        case.example(),
        outputs=lambda module, arguments: {"labels": module(*arguments).argmax(-1)},
    )
    assert converted.config.output_values["labels"].ids == 3
    assert_same(converted, case.lengths)


def test_what_a_module_keeps_is_put_back() -> None:
    """A state that a call leaves behind is no part of the next one, and the owner is told."""
    module = seeded(case_of("chunked").make)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    notes = convert(module, case_of("chunked").example()).notes
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert vars(module)["hidden"] == [None, None]
    assert vars(module)["seen"] == []
    assert "begins with state, which the module keeps" in " ".join(notes)


def test_what_is_returned_and_not_served_is_told() -> None:
    """Arrays are outputs as tensors are; what is the same for all sequences is none."""
    converted = convert(seeded(case_of("arrays").make), case_of("arrays").example())
    assert list(converted.config.outputs) == ["scores", "labels", "last"]
    assert "returns mask, which depends on no input" in " ".join(converted.notes)


def test_a_traced_module_is_refused() -> None:
    """It shows nothing of its code; the module that it was made from does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(nn.LSTM(6, 4), torch.randn(9, 6))  # type: ignore[no-untyped-call]
    with pytest.raises(ExportError, match="scripted or traced module"):
        convert(traced, torch.randn(9, 6))


def test_a_norm_by_the_numbers_of_a_batch_is_told() -> None:
    """BatchNorm that trains in eval mode, or has no running statistics, is not what it was."""
    case = case_of("beside_results")
    assert "those of a batch" in " ".join(convert(seeded(case.make), case.example()).notes)


def test_what_a_call_changes_is_told() -> None:
    """What a module counts or averages over calls is as it is now, for each sequence."""
    module = seeded(case_of("running_mean").make)
    notes = convert(module, case_of("running_mean").example()).notes
    assert any("changes its seen, calls when it is called" in note for note in notes), notes
    assert module.calls == 1
    assert not module.get_buffer("seen").any()
