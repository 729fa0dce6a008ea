"""Quality of a night by paired seeds: seeds are added where one differs, others confirm a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.regress.gate import QUALITY, confirm
from bench.regress.quality import quality_row
from bench.regress.revisions.turns import Pair, Told, Turn
from bench.regress.verdict import Row

NUM_SEEDS = 5  # whose qualities are compared where one seed's differ
More = Callable[[Sequence[int]], list[Pair]]  # trains these seeds on both sides


def judge_quality(model: str, measured: Sequence[tuple[Turn, Told]], more: More) -> Row:
    """The judged row of one model's quality, from the seeds that were `measured`.

    Equal code trains equal models, so that equal qualities need no interval. Where one differs,
    seeds are added up to five; a loss counts if five other seeds show it too. What `more` raises
    passes through.
    """
    pairs: list[Pair] = [(old["quality"], new["quality"]) for _, (old, new) in measured]
    used = {turn.contents[0]["config"]["seed"] for turn, _ in measured}
    unused = [seed for seed in range(3 * NUM_SEEDS) if seed not in used]
    said = measured[0][1][1]

    def judged(pairs: Sequence[Pair]) -> Row:
        return _row(model, pairs, said["direction"], said["quality_unit"])

    if any(old != new for old, new in pairs) and len(pairs) < NUM_SEEDS:
        added, unused = unused[: NUM_SEEDS - len(pairs)], unused[NUM_SEEDS - len(pairs) :]
        pairs = [*pairs, *more(added)]
    first = judged(pairs)
    final, rerun = confirm(first, lambda: judged(more(unused[:NUM_SEEDS])))
    if rerun is None:
        return first
    why = f"other seeds: {rerun.reason}" if rerun.reason else first.reason
    return replace(first, judgement=final.judgement, rerun=rerun.ratio, reason=why)


def _row(model: str, pairs: Sequence[Pair], direction: str, unit: str) -> Row:
    old = [before for before, _ in pairs if before is not None]
    new = [now for _, now in pairs if now is not None]
    if len(old) < len(pairs) or len(new) < len(pairs):
        reason = "quality is not a finite number"
        return Row(model, "quality", "inconclusive", QUALITY, reason=reason)
    return quality_row(model, old, new, "higher" if direction == "higher" else "lower", unit)
