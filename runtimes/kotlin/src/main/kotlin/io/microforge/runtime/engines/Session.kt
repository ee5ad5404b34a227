package io.microforge.runtime.engines

import io.microforge.runtime.Floats
import io.microforge.runtime.Integers
import io.microforge.runtime.Tensor
import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.Component
import io.microforge.runtime.bundle.DType
import io.microforge.runtime.bundle.TensorSpec
import java.io.Closeable

/** One loaded network of a bundle on one engine; every engine looks the same from here. */
public interface Session : Closeable {
    /**
     * Evaluate once: the component's inputs by name to its outputs by name.
     *
     * @throws IllegalArgumentException when a name, shape or type is not the component's.
     * @throws IllegalStateException when the session is closed.
     */
    public fun run(inputs: Map<String, Tensor>): Map<String, Tensor>

    /** Free the network's memory. Closing twice is fine. */
    override fun close()
}

/** Loads a component of a bundle: (bundle, target, component key, threads). */
public fun interface Opener {
    /** A loaded session of component [key]. */
    public fun open(bundle: Bundle, target: String, key: String, threads: Int?): Session
}

/** Refuse inputs that are not exactly what [component] declares. */
internal fun checkInputs(component: Component, inputs: Map<String, Tensor>) {
    val names = component.inputs.map { it.name }
    require(inputs.keys == names.toSet()) { "${component.role} takes ${names.joinToString()}; got ${inputs.keys.joinToString()}" }
    for (spec in component.inputs) {
        val value = inputs.getValue(spec.name)
        require(value.shape == spec.shape && matches(value, spec.dtype)) {
            "${component.role} input ${spec.name} is ${described(value)}; needed: ${spec.dtype.name.lowercase()}${spec.shape}"
        }
    }
}

/** How a graph's tensors (name -> shape, type) differ from the declared ones, or null when they agree. */
internal fun differentTensor(declared: List<TensorSpec>, actual: Map<String, Pair<List<Long>, String>>): String? {
    val expected = declared.associate { spec -> spec.name to (spec.shape.map(Int::toLong) to spec.dtype.name.lowercase()) }
    for (name in (expected.keys + actual.keys).sorted()) {
        if (expected[name] != actual[name]) {
            return "tensor '$name' is ${described(actual[name])}, the manifest says ${described(expected[name])}"
        }
    }
    return null
}

private fun matches(value: Tensor, dtype: DType) = when (value) {
    is Floats -> dtype == DType.FLOAT32 || dtype == DType.FLOAT16
    is Integers -> dtype == DType.INT64 || dtype == DType.INT32
}

private fun described(value: Tensor) = "${if (value is Floats) "float" else "integer"}${value.shape}"

private fun described(tensor: Pair<List<Long>, String>?) = if (tensor == null) "absent" else "${tensor.second}${tensor.first}"
