"""Quality of a night by paired seeds: added where one differs, others to confirm a change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.regress.gate import QUALITY, confirm
from bench.regress.quality import quality_row
from bench.regress.revisions.trial_pair import QualityPair, Replies, TrialPair
from bench.regress.verdict import Row

NUM_SEEDS = 5  # whose qualities are compared where one seed's differ
TrainSeeds = Callable[[Sequence[int]], list[QualityPair]]  # trains these seeds on both sides


def judge_quality(
    model: str, measured: Sequence[tuple[TrialPair, Replies]], train: TrainSeeds
) -> Row:
    """The judged row of one model's quality, from the seeds that were `measured`.

    Equal code trains equal models, so that equal qualities need no interval. Where one differs,
    seeds are added up to five; a change counts if five other seeds show it too. Exceptions of
    `train` pass through.
    """
    pairs: list[QualityPair] = [(old["quality"], new["quality"]) for _, (old, new) in measured]
    used = {pair.contents[0]["config"]["seed"] for pair, _ in measured}
    # Enough for the seeds that are added, those of the rerun, and those in use.
    unused = [seed for seed in range(3 * NUM_SEEDS) if seed not in used]
    reply = measured[0][1][1]  # of the first seed's candidate: unit and direction are equal in all

    def judged_row(pairs: Sequence[QualityPair]) -> Row:
        return _row(model, pairs, reply["direction"], reply["quality_unit"])

    if any(old != new for old, new in pairs) and len(pairs) < NUM_SEEDS:
        num_missing = NUM_SEEDS - len(pairs)
        added, unused = unused[:num_missing], unused[num_missing:]
        pairs = [*pairs, *train(added)]
    first = judged_row(pairs)
    # With other seeds: the same seeds would train the same models again, and confirm nothing.
    final, rerun = confirm(first, lambda: judged_row(train(unused[:NUM_SEEDS])))
    if rerun is None:
        return first
    why = f"other seeds: {rerun.reason}" if rerun.reason else first.reason
    return replace(first, judgement=final.judgement, rerun=rerun.ratio, reason=why)


def _row(model: str, pairs: Sequence[QualityPair], direction: str, unit: str) -> Row:
    old = [before for before, _ in pairs if before is not None]
    new = [now for _, now in pairs if now is not None]
    # A worker replies null for NaN and infinity: such a training has no quality.
    if len(old) < len(pairs) or len(new) < len(pairs):
        reason = "quality is not a finite number"
        return Row(model, "quality", "inconclusive", QUALITY, reason=reason)
    return quality_row(model, old, new, "higher" if direction == "higher" else "lower", unit)
