"""Routes through merges, halting and recursion, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench import routing
from bench.measure.diagnostics.frames import watch
from bench.measure.diagnostics.paths import paths
from bench.routing import TOKENS, Cost, Decision
from bench.types import Batch, Output

Say = Callable[[int], None]  # announces the decisions of the batch with this number


class Announcing(nn.Module):
    """Makes decisions of its own in every batch, and computes nothing."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self.say, self.num_batches = say, 0

    def forward(self, batch: Batch) -> Output:
        self.say(self.num_batches)
        self.num_batches += 1
        return Output(batch.inputs)


def routes(
    say: Say, num_tokens: int, num_batches: int = 1
) -> tuple[dict[str, Any], dict[str, str]]:
    """The paths of batches of one sample, and the reasons for what is null."""
    reasons: dict[str, str] = {}
    batches = [Batch(torch.zeros(1, num_tokens), torch.zeros(1))] * num_batches
    return paths(watch(Announcing(say), batches), reasons), reasons


def merge(name: str, tokens: list[int], stay: list[int], into: list[int]) -> None:
    """A merge among `tokens`: A holds the first, third, ...; `into` is the payload."""
    row = torch.tensor([tokens])
    eligible = torch.arange(len(tokens)) % 2 == 0
    run = torch.tensor([[token in stay for token in tokens]]) & eligible
    decision = Decision(
        *(name, TOKENS, torch.full(run.shape, 0.5), run, Cost(1.0)),
        tokens=row,
        eligible=eligible[None],
        payload=torch.tensor([into]),
    )
    routing.announce(decision)


def halt(number: int, run: list[int], live: list[int]) -> None:
    """A halting decision about the `live` tokens."""
    going, eligible = torch.tensor([run]).bool(), torch.tensor([live]).bool()
    routing.decide(
        f"halt{number}",
        axes=TOKENS,
        probabilities=torch.full(going.shape, 0.5),
        run=going,
        cost=1.0,
        eligible=eligible,
    )


def test_merges_are_routes() -> None:
    """Of six tokens 2 merges into 3, then 5 into 4; the others go on, whether asked or not.

    In the first merge A is {0, 2, 4}. Tokens 0, 1, 3, 4, 5 are left: A is {0, 3, 5}, and 5 goes
    into 4. Three routes: on and on (0, 1, 3, 4), gone at once (2), gone at the second merge (5).
    """

    def say(number: int) -> None:
        merge("merge0", [0, 1, 2, 3, 4, 5], stay=[0, 4], into=[0, 1, 3, 3, 4, 5])
        merge("merge1", [0, 1, 3, 4, 5], stay=[0, 3], into=[0, 1, 3, 4, 4])

    found, _ = routes(say, 6)
    assert found["num_paths"] == 3
    assert found["depth_histogram"] == [1 / 6, 1 / 6, 4 / 6]
    assert found["exit_histogram"] == found["depth_histogram"]  # a merged token does not return


def test_a_fused_token_goes_on_in_the_place_of_one() -> None:
    """Tokens 2 and 3 of four are fused in place 2: it goes on, and 3 is gone. Two routes."""

    def say(number: int) -> None:
        run = torch.tensor([[True, True, False, False]])
        into = torch.tensor([[0, 1, 2, 2]])
        routing.announce(Decision("fuse", TOKENS, run.float(), run, Cost(1.0), payload=into))

    found, _ = routes(say, 4)
    assert (found["num_paths"], found["depth_histogram"]) == (2, [0.25, 0.75])


def test_halting_early_in_one_batch_leaves_all_routes() -> None:
    """In the first batch nothing is left after the first halt, and the second is not called.

    Depths of its three tokens are 0, 0, 0, those of the second batch 0, 1 and 2: three routes.
    """

    def say(number: int) -> None:
        halt(0, [0, 0, 0] if number == 0 else [0, 1, 1], [1, 1, 1])
        if number == 1:
            halt(1, [0, 0, 1], [0, 1, 1])

    found, reasons = routes(say, 3, num_batches=2)
    assert (found["num_paths"], reasons) == (3, {})
    assert found["depth_histogram"] == [4 / 6, 1 / 6, 1 / 6] == found["exit_histogram"]


def test_what_never_halts_takes_no_route() -> None:
    """A class token, about which no gate decides, is no element: depths 0, 1 of two tokens."""

    def say(number: int) -> None:
        halt(0, [0, 0, 1], [0, 1, 1])

    found, _ = routes(say, 3)
    assert (found["num_paths"], found["depth_histogram"]) == (2, [0.5, 0.5])


def test_a_gate_that_is_first_called_late_has_all_batches() -> None:
    """The second halt is called in the second of three batches alone: three routes again."""

    def say(number: int) -> None:
        halt(0, [0, 1, 1] if number == 1 else [0, 0, 0], [1, 1, 1])
        if number == 1:
            halt(1, [0, 0, 1], [0, 1, 1])

    found, _ = routes(say, 3, num_batches=3)
    assert found["num_paths"] == 3
    assert found["depth_histogram"] == [7 / 9, 1 / 9, 1 / 9]


def test_recursions_are_routes() -> None:
    """Four tokens run a shared block 1, 2, 2 and 4 times: three routes, as steps of one gate."""

    def say(number: int) -> None:
        counts = torch.tensor([[1, 2, 2, 4]])
        run = torch.arange(4) < counts[..., None]  # [1, 4, 4]
        axes: Any = ("sample", "token", "step")
        routing.decide("depth", axes=axes, probabilities=run.float(), run=run, cost=1.0)

    assert routes(say, 4)[0]["num_paths"] == 3
