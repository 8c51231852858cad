"""What the demo of a live market trades: series, what a position earns on them, and the policies to compare with.

A position is -1, 0 or +1. Everything is in units of the series' own standard deviation of one step, costs included.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

POSITIONS = (-1, 0, 1)
Array = np.ndarray[Any, np.dtype[np.float64]]
Choose = Callable[[Array, int], int]
"""From the features and the position that is held to the next position."""


@dataclass(frozen=True)
class Series:
    """Features that are known at each tick, and the move from it to the next.

    Attributes:
        features: ``[T, F]``.
        moves: ``[T]``.
        cost: of changing the position by one.
    """

    features: Array
    moves: Array
    cost: float

    def __len__(self) -> int:
        return len(self.moves)

    def part(self, start: int, stop: int) -> Series:
        return Series(self.features[start:stop], self.moves[start:stop], self.cost)


@dataclass(frozen=True)
class Result:
    """What a policy made of a series: the sum of what it earned less costs, and changes of position a tick."""

    profit: float
    turnover: float


def trade(series: Series, choose: Choose) -> Result:
    """Hold what ``choose`` says at each tick, from a flat beginning."""
    held, profit, changes = 0, 0.0, 0
    for features, move in zip(series.features, series.moves, strict=True):
        position = choose(features, held)
        profit += position * move - series.cost * abs(position - held)
        changes += abs(position - held)
        held = position
    return Result(profit, changes / len(series))


def flat(features: Array, held: int) -> int:
    return 0


def hold(features: Array, held: int) -> int:
    return 1


def random_with(turnover: float, rng: np.random.Generator) -> Choose:
    """Changes at random moments to another position at random, so often that the turnover is the same."""
    # A change from one of three positions to another is 4/3 wide on average.
    chance = min(0.75 * turnover, 1.0)

    def choose(features: Array, held: int) -> int:
        return int(rng.choice([p for p in POSITIONS if p != held])) if rng.random() < chance else held

    return choose


# --- EURUSD, hour by hour --------------------------------------------------------------------------

HISTORY, MEAN_OVER = 6, 24


def eurusd() -> tuple[Array, Array]:
    """Closing prices of the series that ``gym-anytrading`` ships, as logarithms, and the moves between them."""
    # The file alone: the package itself would bring a good deal with it.
    found = importlib.util.find_spec("gym_anytrading")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("this demo wants the package gym-anytrading: pip install '.[demos]'")
    path = Path(found.submodule_search_locations[0], "datasets", "data", "FOREX_EURUSD_1H_ASK.csv")
    with path.open(newline="") as file:
        prices = np.log([float(row["Close"]) for row in csv.DictReader(file)])
    return prices, np.diff(prices)


def eurusd_series(train_end: int, half_spread: float = 5e-5) -> Series:
    """The whole series; its scalers are fitted on what comes before ``train_end`` alone."""
    prices, moves = eurusd()
    unit = float(moves[:train_end].std())
    start = max(HISTORY, MEAN_OVER)
    ticks = range(start, len(moves))
    distance = np.array([prices[t] - prices[t - MEAN_OVER : t + 1].mean() for t in ticks])
    distance /= distance[: train_end - start].std()
    recent = np.array([moves[t - HISTORY : t] for t in ticks]) / unit
    features = np.clip(np.column_stack([recent, distance]), -5.0, 5.0)
    return Series(features, moves[start:] / unit, half_spread / unit)


# --- a series whose optimum is known ---------------------------------------------------------------


def synthetic(length: int, persistence: float, cost: float, seed: int) -> Series:
    """A price that returns to its mean: ``x' = persistence * x + noise``; with 1 it is a martingale."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(length + 1)
    x = np.zeros(length + 1)
    for t in range(length):
        x[t + 1] = persistence * x[t] + noise[t]
    moves = np.diff(x)
    # Of a martingale the last moves are all that there is to be seen.
    seen = x[:-1] if persistence < 1 else np.concatenate([[0.0], moves[:-1]])
    return Series(seen[:, None], moves, cost)


def optimal(persistence: float, cost: float) -> Choose:
    """The best policy on ``synthetic``: relative value iteration on a grid (Puterman 1994, section 8.5.5)."""
    grid = np.linspace(-5.0, 5.0, 401) / np.sqrt(1 - persistence**2)
    step = grid[1] - grid[0]
    density = np.exp(-0.5 * (grid[None, :] - persistence * grid[:, None]) ** 2)
    density /= density.sum(axis=1, keepdims=True)
    drift = (persistence - 1) * grid
    earned = np.array(
        [[[p * d - cost * abs(p - held) for p in POSITIONS] for held in POSITIONS] for d in drift]
    )  # [x, held, position]
    values = np.zeros((len(grid), len(POSITIONS)))
    for _ in range(500):
        new = (earned + (density @ values)[:, None, :]).max(axis=2)
        new -= new[len(grid) // 2, 1]
        is_settled = np.abs(new - values).max() < 1e-9
        values = new
        if is_settled:
            break
    best = (earned + (density @ values)[:, None, :]).argmax(axis=2)

    def choose(features: Array, held: int) -> int:
        nearest = int(np.clip(round((features[0] - grid[0]) / step), 0, len(grid) - 1))
        return POSITIONS[int(best[nearest, held + 1])]

    return choose
