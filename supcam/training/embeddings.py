"""How an embedding is doing, which training never uses: probes, geometry, pictures."""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.files import replaced_file
from supcam.views import to_input

NEIGHBOURS = 20
NEIGHBOUR_TEMPERATURE = 0.1
UNIFORMITY_KEYS = 1024


def sensitivities(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, float]:
    """Sensitivity of each type that occurs, keyed ``sensitivity_TYPE``, and ``macro_sensitivity`` over those types."""
    values = {
        f"sensitivity_{name}": float((predicted[labels == code] == code).mean())
        for code, name in enumerate(TYPE_LABELS)
        if (labels == code).any()
    }
    return values | {"macro_sensitivity": float(np.mean(list(values.values()))) if values else math.nan}


def nearest_neighbours(query: Tensor, bank: Tensor, bank_labels: Tensor) -> NDArray[np.int64]:
    """Types (N,) voted by each unit query's 20 nearest of the unit bank, weighted by similarity (Wu et al. 2018).

    Each type's votes are divided by its number of keys, so a frequent type does not win by its number.
    """
    close, where = (query @ bank.T).topk(min(NEIGHBOURS, len(bank)), dim=1)
    per_type = torch.bincount(bank_labels, minlength=len(ClusterType)).clamp(min=1)
    votes = torch.zeros(len(query), len(ClusterType), dtype=query.dtype, device=query.device)
    found = bank_labels[where]
    votes.scatter_add_(1, found, (close / NEIGHBOUR_TEMPERATURE).exp() / per_type[found])
    return votes.argmax(dim=1).cpu().numpy()


def linear_probe(
    train: NDArray[np.float64], train_labels: NDArray[np.int64], test: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Types (M,) by a ridge classifier with balanced types, fitted on standardised training features (N, F)."""
    from sklearn.linear_model import RidgeClassifier

    mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    model = RidgeClassifier(alpha=10.0, class_weight="balanced", solver="cholesky")
    model.fit((train - mean) / spread, train_labels)
    return np.asarray(model.predict((test - mean) / spread), dtype=np.int64)


def uniformity(keys: Tensor) -> float:
    """Log of the mean Gaussian potential of unit keys (N, D); lower is more spread out (Wang and Isola 2020)."""
    keys = keys[:UNIFORMITY_KEYS].double()
    if len(keys) < 2:
        return math.nan
    return float((-2.0 * torch.pdist(keys).square()).exp().mean().log())


def class_mean_angles(keys: Tensor, labels: Tensor) -> dict[str, float]:
    """Least and mean angle (degrees) between the mean directions of the types among keys (N, D)."""
    means = [keys[labels == code].double().mean(dim=0) for code in range(len(ClusterType)) if (labels == code).any()]
    if len(means) < 2:
        return {}
    unit = nn.functional.normalize(torch.stack(means), dim=1)
    cosines = (unit @ unit.T).clamp(-1.0, 1.0)
    pairs = torch.triu_indices(len(means), len(means), 1)
    angles = torch.rad2deg(cosines[pairs[0], pairs[1]].acos())
    return {"angle_least": float(angles.min()), "angle_mean": float(angles.mean())}


def spread_over_types(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most ``count`` positions, as many of each type as there are, evenly spaced over the set; sorted."""
    chosen: list[int] = []
    left, codes = count, sorted(np.unique(labels), key=lambda code: int((labels == code).sum()))
    for done, code in enumerate(codes):
        rows = np.flatnonzero(labels == code)
        take = min(len(rows), left // (len(codes) - done))
        chosen += rows[np.linspace(0, len(rows) - 1, take).round().astype(int)].tolist() if take else []
        left -= take
    return np.array(sorted(chosen), dtype=np.int64)


@torch.no_grad()
def encode(module: nn.Module, crops: Tensor, batch_size: int = 256) -> Tensor:
    """Outputs of ``module`` in evaluation mode for uint8 canvases (N, 1, S, S), on the device of its weights."""
    first = next(module.parameters())
    mode = module.training
    module.eval()
    parts = []
    for batch in torch.split(crops, batch_size):
        ready = to_input(batch.to(first.device)).to(first.dtype).contiguous(memory_format=torch.channels_last)
        parts.append(module(ready))
    module.train(mode)
    return torch.cat(parts)


def embedding_picture(features: NDArray[np.float64], labels: NDArray[np.int64], title: str, path: Path) -> None:
    """Scatter of features (N, F) on their first two principal axes, coloured by type, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    centred = features - features.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    share = singular[:2] ** 2 / max(float((singular**2).sum()), 1e-12)
    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.add_subplot()
    for code, name in enumerate(TYPE_LABELS):
        panel.scatter(flat[labels == code, 0], flat[labels == code, 1], s=9, alpha=0.7, label=name)
    panel.set(title=title, xlabel=f"first axis ({share[0]:.0%})", ylabel=f"second axis ({share[1]:.0%})")
    panel.legend(frameon=False)
    with replaced_file(path) as fresh:
        figure.savefig(fresh, format="png", dpi=110, metadata={"Software": None})
