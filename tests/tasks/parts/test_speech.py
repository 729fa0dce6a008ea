"""The synthesiser: pitch, formants, silence, spectrograms."""

from __future__ import annotations

import numpy as np
import pytest

from bench.tasks.parts import speech
from bench.tasks.parts.speech import FRAME, NUM_FRAMES, RATE, Speaker

SPEAKER = Speaker(pitch_hz=125.0, tract=1.0, pace=1.0)


def synthesise(*phones: str, speaker: Speaker = SPEAKER) -> np.ndarray:
    return speech.speak(list(phones), speaker, np.random.default_rng(0)).astype(float)


def loudest_hz(wave: np.ndarray, low: float, high: float) -> float:
    """The frequency at which a wave is loudest in a band, smoothed over 150 Hz."""
    spectrum = np.abs(np.fft.rfft(wave))
    width = round(150 * len(wave) / RATE)
    smooth = np.convolve(spectrum, np.ones(width), "same")
    frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
    band = (frequency > low) & (frequency < high)
    return float(frequency[band][smooth[band].argmax()])


def test_a_word_has_a_fixed_length_and_lies_in_the_middle() -> None:
    """16 bits, 0.64 s, silence before and after, no clipping."""
    wave = speech.speak(["aa", "n"], SPEAKER, np.random.default_rng(0))
    assert wave.dtype == np.int16
    assert wave.shape == (NUM_FRAMES * FRAME,)
    audible = np.flatnonzero(wave)
    assert audible[0] + audible[-1] == pytest.approx(len(wave), abs=4 * FRAME)
    assert np.abs(wave.astype(int)).max() < 32_767


@pytest.mark.parametrize(("vowel", "first_hz", "second_hz"), [("iy", 270, 2290), ("aa", 730, 1090)])
def test_vowels_have_their_formants(vowel: str, first_hz: float, second_hz: float) -> None:
    """The first two peaks of a vowel's spectrum lie at its formants (Peterson and Barney 1952)."""
    wave = synthesise(vowel)
    between = (first_hz + second_hz) / 2
    assert loudest_hz(wave, 150, between) == pytest.approx(first_hz, abs=130)
    assert loudest_hz(wave, between, 3000) == pytest.approx(second_hz, abs=200)


def test_a_shorter_vocal_tract_raises_the_formants() -> None:
    """A factor of 1.2 on the tract raises the second formant of iy from 2290 to about 2750 Hz."""
    child = Speaker(pitch_hz=125.0, tract=1.2, pace=1.0)
    assert loudest_hz(synthesise("iy", speaker=child), 1500, 3200) == pytest.approx(2748, abs=250)


def test_hiss_is_high_and_voice_is_low() -> None:
    """Most of s lies above 2 kHz, most of uw below."""

    def share_above_2khz(wave: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(wave)) ** 2
        return float(power[len(power) // 2 :].sum() / power.sum())

    assert share_above_2khz(synthesise("s")) > 0.6
    assert share_above_2khz(synthesise("uw")) < 0.1


def test_a_slower_speaker_takes_longer() -> None:
    """Half the pace again: the word is about half as long again (smoothing adds a few frames)."""
    slow = Speaker(pitch_hz=125.0, tract=1.0, pace=1.5)
    lengths = [np.count_nonzero(synthesise("aa", "n", speaker=s)) / FRAME for s in (SPEAKER, slow)]
    assert lengths[1] - lengths[0] == pytest.approx(20, abs=2)  # 200 ms are 40 frames, 300 ms 60


def test_log_mel_finds_a_tone() -> None:
    """A tone of 1 kHz is loudest in the one mel band that is centred nearest to it."""
    time = np.arange(NUM_FRAMES * FRAME) / RATE
    tone = np.round(10_000 * np.sin(2 * np.pi * 1_000 * time)).astype(np.int16)[None]
    mels = speech.log_mel(tone, 20, 128)
    assert mels.shape == (1, 20, NUM_FRAMES * FRAME // 128)
    # bands are centred at k / 21 of mel(4 kHz) = 2146: mel(1 kHz) = 1000 is band 9.8, the tenth
    assert int(mels[0, :, 20].argmax()) == 9


def test_silence_is_zero() -> None:
    """log(0 + 1) = 0 in every band."""
    assert (speech.log_mel(np.zeros((1, 1280), np.int16), 8, 128) == 0).all()
