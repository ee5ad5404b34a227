package io.microforge.runtime

import io.microforge.runtime.bundle.Bindings
import io.microforge.runtime.bundle.Component
import io.microforge.runtime.bundle.Concat
import io.microforge.runtime.bundle.DType
import io.microforge.runtime.bundle.Encoded
import io.microforge.runtime.bundle.Expression
import io.microforge.runtime.bundle.Image
import io.microforge.runtime.bundle.Latent
import io.microforge.runtime.bundle.LatentMask
import io.microforge.runtime.bundle.Parameter
import io.microforge.runtime.bundle.Part
import io.microforge.runtime.bundle.State
import io.microforge.runtime.bundle.TensorSpec
import io.microforge.runtime.bundle.Time
import io.microforge.runtime.bundle.TokenMask
import io.microforge.runtime.bundle.Tokens
import io.microforge.runtime.bundle.Values
import io.microforge.runtime.bundle.Zeros
import io.microforge.runtime.bundle.partsOf
import io.microforge.runtime.engines.Session

/**
 * What expressions read: the encodings of one prompt, the user's image and numbers, and the current evaluation.
 *
 * [tokens] by tokenizer; [encoded] by encoder and output; [image] (1, 3, H, W); [mask] (1, 1, h, w); [latent] (1, C, h, w).
 */
internal data class Context(
    val tokens: Map<String, TokenIds> = emptyMap(),
    val encoded: Map<Pair<String, String>, Tensor> = emptyMap(),
    val image: Floats? = null,
    val mask: Floats? = null,
    val parameters: Map<String, Double> = emptyMap(),
    val latent: Floats? = null,
    val time: Double = 0.0,
)

/** The array of one input, in its shape and type; its default where [expression] is null. */
internal fun boundInput(spec: TensorSpec, expression: Expression?, context: Context): Tensor = when (expression) {
    null -> converted(filled(spec.default.orEmpty(), spec.shape), spec)
    is Concat -> converted(concatenated(spec, expression, context), spec)
    is Part -> converted(valueOf(expression, spec.shape, context), spec)
}

/** All inputs of a component, by name. */
internal fun boundInputs(component: Component, bindings: Bindings, context: Context): Map<String, Tensor> =
    component.inputs.associate { it.name to boundInput(it, bindings[it.name], context) }

private fun concatenated(spec: TensorSpec, expression: Concat, context: Context): Floats {
    val outer = spec.shape.take(expression.axis).fold(1, Int::times)
    val inner = spec.shape.drop(expression.axis + 1).fold(1, Int::times)
    val result = Floats(spec.shape)
    var start = 0
    for (item in expression.parts) {
        val shape = spec.shape.toMutableList().also { it[expression.axis] = item.length }
        val values = numbers(valueOf(item.part, shape, context))
        val run = item.length * inner
        for (row in 0 until outer) {
            values.copyInto(result.data, row * spec.shape[expression.axis] * inner + start, row * run, (row + 1) * run)
        }
        start += run
    }
    return result
}

private fun valueOf(part: Part, shape: List<Int>, context: Context): Tensor = when (part) {
    Latent -> context.latent ?: missing(part)
    Time -> full(shape, context.time)
    is Tokens -> context.tokens[part.tokenizer]?.ids ?: missing(part)
    is TokenMask -> context.tokens[part.tokenizer]?.mask ?: missing(part)
    is Encoded -> context.encoded[part.encoder to part.output] ?: missing(part)
    Image -> context.image ?: missing(part)
    LatentMask -> context.mask ?: full(shape, 1.0)
    Zeros -> Floats(shape)
    is Values -> filled(part.values, shape)
    is Parameter -> full(shape, context.parameters.getValue(part.parameter))
}

private fun missing(part: Part): Nothing = error("an input comes from '${part.kind}', which is not there")

private fun full(shape: List<Int>, value: Double) = Floats(shape).also { it.data.fill(value.toFloat()) }

/** Literal numbers in [shape]; one number for all elements; zeros for none. */
private fun filled(values: List<Double>, shape: List<Int>): Floats = when (values.size) {
    0 -> Floats(shape)
    1 -> full(shape, values[0])
    else -> Floats(shape, FloatArray(values.size) { values[it].toFloat() })
}

private fun numbers(value: Tensor): FloatArray = when (value) {
    is Floats -> value.data
    is Integers -> FloatArray(value.data.size) { value.data[it].toFloat() }
}

private fun converted(value: Tensor, spec: TensorSpec): Tensor {
    val wantsFloats = spec.dtype == DType.FLOAT32 || spec.dtype == DType.FLOAT16
    return when {
        wantsFloats -> value as? Floats ?: Floats(spec.shape, numbers(value))
        value is Floats -> Integers(spec.shape, LongArray(value.data.size) { value.data[it].toLong() })
        else -> value
    }
}

/** One guidance branch of a loaded network: its bound inputs, and a state of its own that goes from step to step. */
internal class Branch(
    private val session: Session,
    component: Component,
    bindings: Bindings,
    private val output: String,
    states: List<State>,
    private val context: Context,
) {
    private val states = states.filter { component.input(it.input) != null }
    private val changing = mutableListOf<Pair<TensorSpec, Expression>>()
    private val inputs = mutableMapOf<String, Tensor>()

    init {
        val carried = this.states.flatMap { listOf(it.input, it.flag) }
        for (spec in component.inputs) {
            val expression = if (spec.name in carried) null else bindings[spec.name]
            if (expression != null && partsOf(expression).any { it == Latent || it == Time }) {
                changing += spec to expression
            } else {
                inputs[spec.name] = boundInput(spec, expression, context)
            }
        }
    }

    /** The network's output at [latent] (1, C, h, w) and [time]; the state moves on. */
    fun evaluate(latent: Floats, time: Double): Floats {
        val now = context.copy(latent = latent, time = time)
        val outputs = session.run(inputs + changing.associate { (spec, expression) -> spec.name to boundInput(spec, expression, now) })
        for (state in states) {
            inputs[state.input] = outputs.getValue(state.output)
            if (state.flag != null) {
                inputs[state.flag] = when (val flag = inputs.getValue(state.flag)) {
                    is Floats -> full(flag.shape, 1.0)
                    is Integers -> Integers(flag.shape, LongArray(flag.data.size) { 1 })
                }
            }
        }
        return outputs.getValue(output) as Floats
    }

    /** What the next evaluation gets, by input name. */
    fun states(): Map<String, Floats> = states.associate { it.input to inputs.getValue(it.input) as Floats }
}
