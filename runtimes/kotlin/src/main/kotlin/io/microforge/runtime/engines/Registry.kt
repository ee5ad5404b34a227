package io.microforge.runtime.engines

import io.microforge.runtime.BundleError
import io.microforge.runtime.bundle.Bundle

/**
 * Load component [key] of [bundle] on the engine [target], after its files' hashes were checked.
 *
 * @param threads that the engine may use for one operator; its own choice when null.
 * @throws BundleError when the bundle lacks the target, this version has no engine for it, or a file is damaged.
 */
public fun openSession(bundle: Bundle, target: String, key: String, threads: Int? = null): Session {
    val path = bundle.file(target, key)
    if (target != "onnx") throw BundleError("this version has no runtime for target '$target'; it has: onnx")
    val component = bundle.manifest.components.getValue(key)
    try {
        return OnnxSession(path, component, threads)
    } catch (error: NoClassDefFoundError) {
        throw BundleError("ONNX Runtime is not on the class path; add com.microsoft.onnxruntime:onnxruntime (Android: onnxruntime-android)", error)
    }
}
