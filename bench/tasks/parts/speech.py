"""Synthetic speech: a formant synthesiser for single words, no recordings.

    word -> phones -> a track of formants and loudness every 5 ms
         -> harmonics of a gliding pitch, weighted by the formants' resonances, plus hiss -> a wave

A source-filter voice in its simplest form (Fant 1960; Klatt 1980 has the resonances). Vowel
formants are the male averages of Peterson and Barney (1952), the other phones rough values. Waves
are rounded to 16 bits, so that the last bits of a machine's sine do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Floating point inside, but every wave ends as int16: hashes are taken of these.
Wave = NDArray[np.int16]  # [samples], or [N, samples]
Values = NDArray[np.float64]

RATE = 8_000  # samples/s
FRAME = 40  # samples of a control frame: 5 ms
NUM_FRAMES = 128
NUM_HARMONICS = 40
BANDWIDTHS = np.array([80.0, 110.0, 160.0])  # Hz, of the three formants


@dataclass(frozen=True)
class Phone:
    """Formants in Hz, loudness of voice and of hiss (0..1), duration in ms."""

    formants: tuple[float, float, float]
    voice: float
    hiss: float
    duration_ms: float


PHONES = {
    "iy": Phone((270, 2290, 3010), 1.0, 0.0, 110),
    "ih": Phone((390, 1990, 2550), 1.0, 0.0, 90),
    "eh": Phone((530, 1840, 2480), 1.0, 0.0, 110),
    "ae": Phone((660, 1720, 2410), 1.0, 0.0, 120),
    "ah": Phone((640, 1190, 2390), 1.0, 0.0, 110),
    "aa": Phone((730, 1090, 2440), 1.0, 0.0, 120),
    "ao": Phone((570, 840, 2410), 1.0, 0.0, 120),
    "uh": Phone((440, 1020, 2240), 1.0, 0.0, 90),
    "uw": Phone((300, 870, 2240), 1.0, 0.0, 110),
    "er": Phone((490, 1350, 1690), 1.0, 0.0, 120),
    "y": Phone((270, 2290, 3010), 0.7, 0.0, 50),
    "w": Phone((290, 610, 2150), 0.7, 0.0, 60),
    "r": Phone((310, 1060, 1380), 0.7, 0.0, 60),
    "l": Phone((360, 1300, 2700), 0.7, 0.0, 70),
    "n": Phone((280, 1700, 2600), 0.4, 0.0, 80),
    "m": Phone((280, 1000, 2200), 0.4, 0.0, 80),
    "s": Phone((300, 1700, 2600), 0.0, 0.5, 110),
    "f": Phone((300, 1100, 2100), 0.0, 0.2, 100),
    "t": Phone((300, 1700, 2600), 0.0, 0.4, 40),
    "p": Phone((300, 800, 2200), 0.0, 0.2, 40),
    "d": Phone((300, 1700, 2600), 0.3, 0.2, 40),
    "g": Phone((300, 1900, 2200), 0.3, 0.1, 40),
    "b": Phone((300, 800, 2200), 0.3, 0.1, 40),
    "_": Phone((400, 1400, 2400), 0.0, 0.0, 40),  # the silence before a stop
}


@dataclass(frozen=True)
class Speaker:
    """Pitch in Hz, and factors on every formant (the vocal tract) and every duration (the pace)."""

    pitch_hz: float
    tract: float
    pace: float


def speak(phones: list[str], speaker: Speaker, rng: np.random.Generator) -> Wave:
    """One word as a wave of NUM_FRAMES * FRAME samples at RATE, centred in time."""
    formants, voice, hiss = _track([PHONES[name] for name in phones], speaker)
    fall = np.linspace(1.1, 0.9, NUM_FRAMES)  # a statement's pitch falls
    # Jitter of 1 %, as in a natural voice.
    pitch = speaker.pitch_hz * fall * rng.normal(1.0, 0.01, NUM_FRAMES)
    weights = _resonances(formants, pitch) * voice[:, None]  # [frames, harmonics]
    wave = _harmonics(pitch, weights) + _hiss(hiss, rng)
    return np.clip(np.round(3_000.0 * wave), -32_768, 32_767).astype(np.int16)


def _track(phones: list[Phone], speaker: Speaker) -> tuple[Values, Values, Values]:
    """Formants [frames, 3], loudness of voice and of hiss [frames], smoothed over 25 ms."""
    lengths = [round(p.duration_ms * speaker.pace * RATE / 1000 / FRAME) for p in phones]
    before = max(NUM_FRAMES - sum(lengths), 0) // 2
    which = np.repeat(np.arange(len(phones)), lengths)
    places = np.clip(np.arange(NUM_FRAMES) - before, 0, len(which) - 1)
    spoken = (np.arange(NUM_FRAMES) >= before) & (np.arange(NUM_FRAMES) < before + len(which))
    table = np.array([(*p.formants, p.voice, p.hiss) for p in phones])[which[places]]
    table[~spoken, 3:] = 0.0  # silent before and after; formants stay, so that none jumps
    table[:, :3] *= speaker.tract
    window = np.ones(5) / 5
    edged = np.pad(table, ((2, 2), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, window, "valid") for column in edged.T], axis=1)
    return smooth[:, :3], smooth[:, 3], smooth[:, 4]


def _resonances(formants: Values, pitch: Values) -> Values:
    """The amplitude of each harmonic, [frames, harmonics]; 0 above half the sampling rate."""
    number = np.arange(1, NUM_HARMONICS + 1)
    frequency = (pitch[:, None] * number)[..., None]  # [frames, harmonics, 1]
    centre = formants[:, None, :]
    gain = centre**2 / np.hypot(centre**2 - frequency**2, frequency * BANDWIDTHS)
    audible = frequency[..., 0] < RATE / 2  # above it a harmonic would alias
    return np.where(audible, gain.prod(-1) / number, 0.0)  # the glottal pulse: 6 dB per octave


def _harmonics(pitch: Values, weights: Values) -> Values:
    """The sum of weighted harmonics of a phase that follows the pitch, [samples]."""
    # Integrated, not pitch * time: a gliding pitch keeps its phase continuous.
    phase = np.cumsum(np.repeat(pitch, FRAME)) * (2 * np.pi / RATE)
    twice_cosine = 2 * np.cos(phase)
    older, newer = np.zeros_like(phase), np.sin(phase)
    wave = np.zeros_like(phase)
    for harmonic in range(weights.shape[1]):
        wave += np.repeat(weights[:, harmonic], FRAME) * newer
        older, newer = newer, twice_cosine * newer - older  # sin((h + 1) x) from the two before
    return wave


def _hiss(loudness: Values, rng: np.random.Generator) -> Values:
    """Noise with little energy below 1 kHz (a first difference), [samples]."""
    noise = rng.normal(size=NUM_FRAMES * FRAME + 1)
    return 0.5 * np.repeat(loudness, FRAME) * np.diff(noise)


def log_mel(waves: Wave, num_mels: int, hop: int) -> Tensor:
    """Log-mel spectrograms [N, num_mels, samples / hop] of `waves` [N, samples].

    Hann windows of 2 * hop samples, magnitudes, triangular filters evenly spaced in mel:
    2595 log10(1 + f / 700) (O'Shaughnessy 1987).
    """
    window = torch.hann_window(2 * hop)
    spectra = [
        torch.stft(part.float(), 2 * hop, hop, window=window, return_complex=True).abs()
        for part in torch.from_numpy(waves).split(512)
    ]
    bank = torch.from_numpy(_mel_bank(num_mels, hop + 1)).float()
    return (bank @ torch.cat(spectra)[..., :-1] + 1.0).log()


def _mel_bank(num_mels: int, num_bins: int) -> Values:
    """Triangular filters over the bins 0..RATE / 2, [num_mels, num_bins]; each sums to one."""
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, num_mels + 2) / 2595) - 1)
    frequency = np.linspace(0, RATE / 2, num_bins)
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequency - low) / (centre - low), (high - frequency) / (high - centre)
    filters = np.maximum(np.minimum(rising, falling), 0.0)
    return filters / np.maximum(filters.sum(1, keepdims=True), 1e-9)
