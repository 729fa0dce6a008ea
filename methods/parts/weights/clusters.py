"""Neurons in blocks: k-means with clusters of equal size (Zhang et al. 2022, MoEfication)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_clusters(
    points: Tensor, num_clusters: int, num_rounds: int = 8
) -> tuple[Tensor, Tensor]:
    """k-means with clusters of equal size: owner [N] of each point, unit centres [G, D].

    `points` [N, D] of length 1, N divisible by G. Each first centre is the point farthest from
    those before it, so the result is deterministic. In every round the closest pairs of
    point and centre match first, until a cluster is full.
    """
    centers = points[:1]
    while len(centers) < num_clusters:
        # The point whose nearest centre is least similar to it.
        farthest = (points @ centers.T).amax(1).argmin()
        centers = torch.cat([centers, points[farthest][None]])
    for _ in range(num_rounds):
        owner = _assign(points @ centers.T)  # cosine similarity: all are of length 1
        sums = torch.zeros_like(centers).index_add_(0, owner, points)
        centers = F.normalize(sums, dim=1)
    return owner, centers


def _assign(similarity: Tensor) -> Tensor:
    """The owner of each point, best pairs first: `similarity` [N, G] -> [N]."""
    num_points, num_clusters = similarity.shape
    # Greedy, in Python: it runs once per layer when a model is converted. An optimal assignment
    # would need a solver, and rounds of k-means correct most of the difference.
    free = [num_points // num_clusters] * num_clusters
    owner = [-1] * num_points
    for pair in similarity.flatten().argsort(descending=True).tolist():
        point, cluster = divmod(pair, num_clusters)  # row-major
        if owner[point] < 0 and free[cluster]:
            owner[point] = cluster
            free[cluster] -= 1
    return torch.tensor(owner, device=similarity.device)
