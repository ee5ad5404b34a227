"""Opens one component of a bundle on an engine named by its target."""

from __future__ import annotations

import platform

from microforge.bundle.files import Bundle
from microforge.errors import BundleError
from microforge_runtimes.engines.session import Session


def open_session(bundle: Bundle, target: str, key: str, threads: int | None = None) -> Session:
    """Load component ``key`` of ``bundle`` on the engine ``target``, after its files' hashes were checked.

    Args:
        threads: that the engine may use for one operator; its own choice when None. ExecuTorch has one pool
            for all sessions of a process, and Core ML chooses itself.

    Raises:
        BundleError: when the bundle lacks the target, this version has no engine for it, or a file is damaged.
        MissingExtraError: when the engine is not installed.
    """
    path = bundle.file(target, key)
    component = bundle.manifest.components[key]
    if target == "onnx":
        from microforge_runtimes.engines.onnx import OnnxSession  # the engine loads only when it is used

        return OnnxSession(path, component, threads)
    if target == "executorch":
        from microforge_runtimes.engines.executorch import ExecutorchSession

        return ExecutorchSession(path, key, component, threads)
    if target == "coreml":
        from microforge_runtimes.engines.coreml import CoreMLSession, MilSession

        # Core ML itself runs on Apple's systems only; elsewhere its files are interpreted, and checked so.
        on_mac = platform.system() == "Darwin"
        return CoreMLSession(path, component, key) if on_mac else MilSession(path, component, key)
    if target == "litert":
        from microforge_runtimes.engines.litert import LiteRTSession

        return LiteRTSession(path, key, component, threads)
    raise BundleError(
        f"this version has no runtime for target {target!r}; it has: onnx, executorch, coreml, litert"
    )
