"""What a task is: data, a loss, a score, and the extras that it may declare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from bench.types.data import Batch, Output, Split, TaskSpec
from bench.types.models import Model
from bench.types.scores import Quality, Recipe

if TYPE_CHECKING:
    from torch import Tensor


class Criterion(Protocol):
    """A task's training loss, a scalar tensor."""

    def __call__(self, output: Output, batch: Batch) -> Tensor: ...


Corruption = Callable[[Batch, int, int], Batch]  # (batch, severity 1 to 5, seed) -> harder batch


@dataclass(frozen=True)
class Extras:
    """What a task offers beyond training and scoring. All of it is optional, none loads data.

    `split_sizes`: samples of each split where they are known without the data.
    `attributes(split)`: a number per sample in data order, [N] by name. `difficulty` (0 easy to 1
    hard) is correlated with the compute spent; `source` numbers the original that a sample is made
    from (a handwritten digit, a passage, a speaker), by which errors are clustered and calibration
    data halved; `task` is the part of a mixture that it belongs to, `task_names` names the parts.
    `unseen()`: a batch to which no answer is right, such as classes never seen.
    `corruptions()`: harder inputs by name, in place of those that fit every task of the kind.
    """

    split_sizes: Mapping[Split, int] = field(default_factory=dict)
    attributes: Callable[[Split], Mapping[str, Tensor]] | None = None
    task_names: Sequence[str] = ()
    unseen: Callable[[], Batch] | None = None
    corruptions: Callable[[], Mapping[str, Corruption]] | None = None


def extras_of(task: object) -> Extras:
    """The extras that a task declares in its attribute `extras`; none where it has no such."""
    found = getattr(task, "extras", None)
    return found if isinstance(found, Extras) else Extras()


@runtime_checkable
class Task(Protocol):
    """Real data with a question. A dataclass of its settings; one file per task.

    Optional: `extras` (a property), see `Extras`.
    """

    version: int  # raised whenever data or scoring change

    @property
    def spec(self) -> TaskSpec: ...

    @property
    def recipe(self) -> Recipe: ...

    def data_hash(self) -> str:
        """Hash of the data: part of every trial's key.

        Of the content where that is small. Of a manifest where data are large or streamed: names,
        sizes and checksums of the files (`bench.tasks.parts.manifest`).
        """
        ...

    def num_samples(self, split: Split) -> int: ...

    def batches(self, split: Split, batch_size: int, *, seed: int | None = None) -> Iterable[Batch]:
        """One pass over a split; shuffled by `seed`, in data order without one.

        The train split drops a last ragged batch, the others keep it.
        """
        ...

    def criterion(self, output: Output, batch: Batch) -> Tensor: ...

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality: ...
