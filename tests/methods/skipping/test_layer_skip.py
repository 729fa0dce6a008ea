"""Self-speculation: greedy tokens exactly, drafts and verifications, training's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import routing
from bench.measure.diagnostics.speculation import summary
from bench.meters.flops.counter import count
from bench.routing import TOKENS, Cost, Decision
from bench.types import Batch, Unsupported
from methods.parts.exits.speculation import dropout_rates, exit_weights
from methods.skipping.layer_skip import LayerSkip
from methods.trunk.cache import Cache


def model_of(tiny_text: Any) -> Any:
    """An untrained trunk of four blocks that drafts with the first."""
    return LayerSkip().build(tiny_text.spec, tiny_text.backbone).eval()


def prompts(tiny_text: Any, num: int) -> Batch:
    inputs = tiny_text.batch(num).inputs[:, :6]
    return Batch(inputs, inputs)


def test_dropout_by_hand() -> None:
    """0.2 (2^(l / 3) - 1) of four blocks: 0, 0.2 x 0.259921, 0.2 x 0.587401, 0.2."""
    assert dropout_rates(4, 0.2) == pytest.approx([0.0, 0.0519842, 0.1174802, 0.2])


def test_exit_weights_by_hand() -> None:
    """e(1) = 1, e(2) = 1 + 2 = 3, of the last of four 3 + (1 + 2) = 6; together 10."""
    assert exit_weights(4, 1.0, frozenset({1, 2})) == pytest.approx({1: 0.1, 2: 0.3, 3: 0.6})
    # Half the scale: 0.5, and 3 + 1.5 = 4.5 of 5.
    assert exit_weights(4, 0.5, frozenset({1})) == pytest.approx({1: 0.1, 3: 0.9})


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("point", [{"exit": 0.25, "drafts": 4}, {"exit": 0.75, "drafts": 2}])
@torch.no_grad()
def test_tokens_are_the_full_models_greedy_ones(tiny_text, num_samples: int, point: Any) -> None:
    """Token for token, for every number of tokens, drafts and drafting blocks."""
    for seed in range(5):
        torch.manual_seed(seed)
        model = model_of(tiny_text)
        LayerSkip().set_point(model, point)
        prompt = prompts(tiny_text, num_samples)
        for num_tokens in (1, 2, 11):
            wanted = list(model.trunk.generate(prompt, num_tokens))
            assert torch.equal(
                torch.stack(list(model.generate(prompt, num_tokens))), torch.stack(wanted)
            )


@torch.no_grad()
def test_a_head_that_reads_the_first_blocks_accepts_every_draft(tiny_text) -> None:
    """Where later blocks add nothing, drafts are right: 10 tokens after the first take 2 passes."""
    model = model_of(tiny_text)
    for block in model.trunk.blocks[1:]:
        for layer in (block.attention.out, block.ffn.down):
            layer.weight.zero_()
            layer.bias.zero_()
    with routing.observe() as seen:
        list(model.generate(prompts(tiny_text, 2), 11))
    # 4 drafts and the verifier's own token, twice.
    assert [d.run.tolist() for d in seen.decisions] == [[[True] * 4] * 2] * 2


@torch.no_grad()
def test_nothing_is_computed_twice_for_accepted_drafts(tiny_text) -> None:
    """With every draft accepted, blocks run once per token, and only the head runs more often."""
    model = model_of(tiny_text)
    for block in model.trunk.blocks[1:]:
        for layer in (block.attention.out, block.ffn.down):
            layer.weight.zero_()
            layer.bias.zero_()
    calls: dict[int, int] = dict.fromkeys(range(4), 0)
    for number, block in enumerate(model.trunk.blocks):
        block.register_forward_pre_hook(
            lambda module, given, number=number: calls.update(
                {number: calls[number] + given[0].x.shape[1]}
            )
        )
    counted = count(lambda: list(model.generate(prompts(tiny_text, 1), 11)))
    # 6 tokens of the prompt and 10 of the 11 others: the last one is not read.
    assert calls == dict.fromkeys(range(4), 16)
    assert counted.by_region["router"] > 0


def test_the_record_counts_what_verifications_add() -> None:
    """Two samples accept 3 and 1 of 4 drafts, then 2 and 2 of 2: the batch adds 2, then 3."""

    def accepted(*rows: list[int]) -> Decision:
        run = torch.tensor(rows, dtype=torch.bool)
        return Decision("accepted", TOKENS, run.float(), run, Cost(0.0), observed_only=True)

    found = summary([accepted([1, 1, 1, 0], [1, 0, 0, 0]), accepted([1, 1], [1, 1])])
    # (3 + 1 + 2 + 2) / 4 accepted, (2 + 3) / 2 tokens, (4 + 2) / 2 drafts
    assert found == {
        "acceptance_length": 2.0,
        "tokens_per_verification": 2.5,
        "drafts_per_verification": 3,
        "num_verifications": 2,
    }


def test_every_rotation_th_exit_is_taught(tiny_text) -> None:
    """Of blocks 1 and 2 before the last, the first step teaches 2, the second 1; 0 weighs 0."""
    method = LayerSkip(rotation=2)
    model = method.build(tiny_text.spec, tiny_text.backbone).train()
    taught = []
    for _ in range(3):
        method.loss(model, tiny_text.batch(4), tiny_text.criterion, 0.0)
        taught.append(sorted(model.taught))
    assert taught == [[2], [1], [2]]


def test_training_leaves_blocks_out_and_inference_none(tiny_text) -> None:
    """With a dropout near 1 the last block gives nothing in training; inference is the trunk."""
    model = LayerSkip(dropout=0.999999).build(tiny_text.spec, tiny_text.backbone).train()
    model.dropout = [0.0, 0.0, 0.0, 1.0]
    model.taught = frozenset({2})
    output = model(tiny_text.batch(3))
    torch.testing.assert_close(output.logits, output.stats["exits"][2])
    whole = model.eval()(tiny_text.batch(3)).logits
    torch.testing.assert_close(whole, model.trunk(tiny_text.batch(3)).logits)


@torch.no_grad()
def test_a_cache_forgets(tiny_text) -> None:
    """After rewinding, other tokens continue as if the forgotten ones had never been."""
    trunk = model_of(tiny_text).trunk
    inputs = tiny_text.batch(2).inputs
    cache = Cache(2, 10)
    trunk(Batch(inputs[:, :8], inputs), cache)
    cache.length = 8
    cache.rewind(5)
    rest = inputs[:, 5:7].flip(0)
    found = trunk(Batch(rest, rest), cache).logits[:, -1]
    whole = torch.cat([inputs[:, :5], rest], 1)
    torch.testing.assert_close(found, trunk(Batch(whole, whole)).logits[:, -1])
    with pytest.raises(ValueError, match="has not stored the first 9 tokens"):
        cache.rewind(9)


def test_other_tasks_are_refused(tiny_image) -> None:
    """Only a language model writes tokens that can be drafted."""
    with pytest.raises(Unsupported, match="needs a language model"):
        LayerSkip().build(tiny_image.spec, tiny_image.backbone)
