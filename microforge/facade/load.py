"""Opens a model by its path, by its name on the Hugging Face hub, or the one that ships with the package."""

from __future__ import annotations

from pathlib import Path

from microforge.bundle.signature import read_key
from microforge.errors import BundleError, MissingExtraError
from microforge.facade.backends import open_backend
from microforge.facade.model import Model

#: The 4-step model that ships with the package, a checkpoint.
SHIPPED = Path(__file__).parents[1] / "pretrained" / "student"


def load(
    model: str | Path | None = None, *, target: str | None = None, threads: int | None = None,
    device: str | None = None, keep_loaded: bool = True, key: str | Path | None = None,
) -> Model:  # fmt: skip
    """Open a model: a bundle, a checkpoint, or the shipped student.

    A bundle needs only its inference engine. A checkpoint, and therefore the shipped student, needs torch.

    Args:
        model: folder or archive of a bundle (``mf-export build``), or folder of a checkpoint; None is the shipped student.
        target: engine of a bundle: onnx, executorch, coreml or litert; onnx by default where the bundle has it.
        threads: CPU threads; the engine's own choice by default.
        device: of a checkpoint: cpu, cuda or mps; cpu by default.
        keep_loaded: of a bundle: keep networks in memory between images; False frees each one after its use, as on
            a phone.
        key: file of an Ed25519 public key (PEM); only a bundle that its owner signed is opened (``mf-export sign``).

    Raises:
        BundleError: when there is no such model, or the bundle is damaged or lacks the target.
        CheckpointError: when the checkpoint is damaged or not trained far enough.
        MissingExtraError: when a package is not installed; the message names the extra that brings it.
        SignatureError: when ``key`` is given and did not sign the bundle.
        SpecError: for an option that does not go with the model.
    """
    path = SHIPPED if model is None else Path(model)
    if model is not None and not path.exists():
        hint = f"; to download it: microforge.from_pretrained({str(model)!r})" if _is_hub_name(model) else ""
        raise BundleError(f"{model}: no such bundle or checkpoint{hint}")
    try:
        return Model(open_backend(path, target, threads, device, keep_loaded, read_key(key)))
    except MissingExtraError as error:
        if model is None:
            raise MissingExtraError(f"the shipped model is a checkpoint: {error}, or load a bundle") from None
        raise


def _is_hub_name(model: str | Path) -> bool:
    """Whether ``model`` could be an ``owner/name`` of the hub."""
    parts = str(model).split("/")
    return isinstance(model, str) and len(parts) == 2 and all(part.strip(". ") for part in parts)
