"""θ_G0 in a checkpoint: a resumed run must be anchored where the first one was."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch


STATE_FILE = "tar_state.json"


def save_anchor(checkpoint: str, weights: Iterable[torch.Tensor], write: bool = True) -> None:
    """Notes the hash of θ_G0 in the checkpoint; every device of sharded weights hashes, and one writes."""
    sha256 = _hash(weights)
    if write:
        (Path(checkpoint) / STATE_FILE).write_text(json.dumps({"reference_sha256": sha256}))


def check_anchor(checkpoint: str, weights: Iterable[torch.Tensor]) -> None:
    """Raises `ValueError` for a checkpoint with another θ_G0, or without a whole note of it."""
    try:
        saved = json.loads((Path(checkpoint) / STATE_FILE).read_text())["reference_sha256"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(
            f"The checkpoint {str(checkpoint)!r} has no complete {STATE_FILE}, so TARTrainer did not write it to its end. "
            "Resume from an earlier checkpoint of TARTrainer, or give the model as `model`."
        ) from None
    if saved != _hash(weights):
        raise ValueError(
            f"The checkpoint {str(checkpoint)!r} was trained from other weights than the model given here, and the anchor "
            "would move. Give the trainer the model that the first run started from."
        )


def _hash(weights: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for value in weights:
        digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
