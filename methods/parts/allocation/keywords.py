"""Which symbols are keywords: by how rare they are, by what they tell about the class, or listed.

    counts.add(inputs, mask, targets)            over training batches
    scores = counts.surprisal()                  or counts.class_information()
    keywords = pick(scores, counts.occurrences, share=0.2)      bool [V]

V symbols, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


class SymbolCounts(nn.Module):
    """Occurrences of V symbols, and with C classes the samples of each class that hold a symbol.

    Buffers, so that what was counted travels with the weights.
    """

    occurrences: Tensor  # [V]
    holding: Tensor  # [V, C]
    samples: Tensor  # [C]

    def __init__(self, num_symbols: int, num_classes: int = 0) -> None:
        super().__init__()
        self.register_buffer("occurrences", torch.zeros(num_symbols, dtype=torch.float64))
        self.register_buffer("holding", torch.zeros(num_symbols, num_classes, dtype=torch.float64))
        self.register_buffer("samples", torch.zeros(num_classes, dtype=torch.float64))

    @torch.no_grad()
    def add(self, symbols: Tensor, real: Tensor | None, targets: Tensor) -> None:
        """Count `symbols` [B, T] where `real` [B, T] bool (None: all); `targets` [B] of classes."""
        flat = symbols if real is None else symbols[real]
        self.occurrences += torch.bincount(flat.flatten(), minlength=len(self.occurrences))
        num_classes = len(self.samples)
        if num_classes == 0:
            return
        held = torch.zeros(len(symbols), len(self.occurrences), dtype=torch.float64)  # [B, V]
        weight = torch.ones_like(symbols) if real is None else real
        held = held.to(symbols.device).scatter_reduce(1, symbols, weight.double(), "amax")
        of_class = nn.functional.one_hot(targets, num_classes).double()  # [B, C]
        self.holding += held.T @ of_class
        self.samples += of_class.sum(0)

    def surprisal(self) -> Tensor:
        """-log2 of each symbol's unigram probability with one added to every count, bits [V]."""
        return -((self.occurrences + 1) / (self.occurrences + 1).sum()).log2()

    def class_information(self) -> Tensor:
        """Mutual information of "the sample holds the symbol" with its class, bits [V]."""
        total = self.samples.sum().clamp_min(1)
        joint = torch.stack([self.holding, self.samples - self.holding]) / total  # [2, V, C]
        apart = joint.sum(2, keepdim=True) * (self.samples / total)
        # x log x is 0 where a class never holds the symbol, or always.
        return (torch.xlogy(joint, joint) - torch.xlogy(joint, apart)).sum((0, 2)) / torch.log(
            torch.tensor(2.0)
        )


def pick(scores: Tensor, occurrences: Tensor, share: float) -> Tensor:
    """The symbols of the highest `scores` [V] whose occurrences fit into `share`, bool [V].

    In order of the score, equal ones by number; a symbol that would exceed the share is passed
    over. The best that occurs at all is taken, whatever its share.
    """
    order = scores.argsort(descending=True, stable=True)
    left = share * float(occurrences.sum())
    taken = torch.zeros_like(scores, dtype=torch.bool)
    any_occurs = False
    for symbol in order.tolist():
        number = float(occurrences[symbol])
        if number <= left or (number > 0 and not any_occurs):
            taken[symbol] = True
            left -= number
            any_occurs = any_occurs or number > 0
    return taken


def read_keywords(path: str) -> list[str]:
    """The lines of a UTF-8 file that are not empty. Raises ValueError for a file without any."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"keyword_file={path!r} is not UTF-8 at byte {error.start}: save it in that encoding"
        ) from error
    except OSError as error:
        raise ValueError(
            f"keyword_file={path!r} cannot be read ({error.strerror}): give the path of a text file"
            " with one keyword a line"
        ) from error
    # A space may be a symbol: of a line only its end is cut off.
    words = list(dict.fromkeys(word for word in text.splitlines() if word))
    if not words:
        raise ValueError(f"keyword_file={path!r} is empty: write one keyword a line")
    return words


def find_symbols(words: Sequence[str], symbols: Sequence[str], path: str) -> list[int]:
    """The numbers of `words` among `symbols`. Raises ValueError for words that never occur."""
    place = {symbol: number for number, symbol in enumerate(symbols)}
    unknown = [word for word in words if word not in place]
    if unknown:
        few = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"keyword_file={path!r}: {len(unknown)} of {len(words)} keywords never occur, being no"
            f" symbols of the task ({few}): remove them"
        )
    return [place[word] for word in words]
