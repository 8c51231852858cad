"""Drawing rows in proportion to their weights, in logarithmic time."""

from __future__ import annotations

import numpy as np

from optix_stream.types import Array, FloatArray


class SumTree:
    """A binary tree whose leaves are weights and whose nodes are sums of two.

    A node depends on its two children alone, so that the same leaves always give the same tree. Schaul et al. 2016
    (arXiv 1511.05952), appendix B.2.1.

    Args:
        capacity: leaves.
    """

    def __init__(self, capacity: int) -> None:
        self._base = 1 << max(0, capacity - 1).bit_length()
        self._nodes = np.zeros(2 * self._base)
        self._capacity = capacity

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    def __getitem__(self, rows: Array) -> FloatArray:
        weights: FloatArray = self._nodes[self._base + rows]
        return weights

    def put(self, rows: Array, weights: Array) -> None:
        """Set the weights of some leaves, none negative; of a row that comes twice the last one counts."""
        nodes = self._base + rows
        self._nodes[nodes] = weights
        while len(nodes) and nodes[0] > 1:
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """``count`` rows, each with a probability of its share of the total, which is above 0."""
        left_over = rng.random(count) * self._nodes[1]
        nodes = np.ones(count, np.int64)
        while nodes[0] < self._base:
            left = self._nodes[2 * nodes]
            # What is rounded must not lead to a leaf without weight.
            goes_right = (left_over >= left) & (self._nodes[2 * nodes + 1] > 0.0)
            left_over -= np.where(goes_right, left, 0.0)
            nodes = 2 * nodes + goes_right
        return nodes - self._base

    def leaves(self) -> FloatArray:
        """A copy of all weights; ``[capacity]``."""
        return self._nodes[self._base : self._base + self._capacity].copy()

    def replace(self, weights: Array) -> None:
        """Set all of them; ``[capacity]``."""
        nodes, width = self._nodes, self._base
        nodes[width : width + self._capacity] = weights
        while width > 1:
            nodes[width // 2 : width] = nodes[width : 2 * width : 2] + nodes[width + 1 : 2 * width : 2]
            width //= 2
