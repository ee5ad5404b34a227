package io.microforge.runtime

import io.microforge.runtime.bundle.LatentSpace
import io.microforge.runtime.bundle.Level
import io.microforge.runtime.bundle.MAX_HISTORY
import io.microforge.runtime.bundle.Preview
import io.microforge.runtime.bundle.SamplerRow
import io.microforge.runtime.bundle.SamplerTable
import kotlin.math.abs

/**
 * What one sampling step did.
 *
 * [input] u and [latent] (1, C, h, w) are the latent before and after the step, [output] m is what the network's branches add up
 * to, [states] what the first branch carries on, by input name.
 */
public class Step internal constructor(
    /** 1 for the first step. */
    public val index: Int,
    public val steps: Int,
    public val time: Double,
    public val input: Floats,
    public val output: Floats,
    public val latent: Floats,
    public val states: Map<String, Floats>,
    private val cleanWeights: Level?,
    private val previewMatrix: Preview?,
) : Progress {
    /** The clean latent (1, C, h, w) that this step predicts, else the latent after it. */
    public fun clean(): Floats =
        if (cleanWeights == null) latent else weightedSum(listOf(cleanWeights.clean to input, cleanWeights.noise to output))

    /** A small picture of the predicted clean latent; null where the bundle has no preview. */
    public fun preview(): Pixels? = previewMatrix?.let { previewPixels(it, clean()) }

    internal fun counted(index: Int, steps: Int) =
        Step(index, steps, time, input, output, latent, states, cleanWeights, previewMatrix)
}

/** m at (u, time), and the states that the first branch carries on. */
internal typealias Evaluate = (Floats, Double) -> Pair<Floats, Map<String, Floats>>

/** The latent to go on with, from the latent after a step and its noise level where the table has it. */
internal typealias AfterStep = (Floats, Level?) -> Floats

/** The sum of weight times array, in float64 in the order of [terms], rounded once to float32. */
public fun weightedSum(terms: List<Pair<Double, Floats>>): Floats {
    val first = terms.first().second
    return Floats(
        first.shape,
        FloatArray(first.data.size) { index ->
            var total = 0.0
            for ((weight, values) in terms) total += weight * values.data[index]
            total.toFloat()
        },
    )
}

/**
 * The next network input u.
 *
 * @param inputs u of this evaluation and the ones before, newest first; at least as many as the row uses.
 * @param outputs m in the same order.
 * @param noise fresh noise, needed where the row's coefficient of it is not 0.
 */
public fun advance(row: SamplerRow, inputs: List<Floats>, outputs: List<Floats>, noise: Floats? = null): Floats {
    val terms = row.u.zip(inputs) + row.m.zip(outputs)
    return weightedSum(if (row.noise != 0.0 && noise != null) terms + (row.noise to noise) else terms)
}

/** A clean latent at a noise level: both products and their sum are rounded to float32. */
internal fun atLevel(level: Level, clean: Floats, noise: Floats): Floats {
    val share = level.clean.toFloat()
    val rest = level.noise.toFloat()
    return clean.map { index, value -> share * value + rest * noise.data[index] }
}

/** Follow [table] from [start], the u of row [firstRow], to the final latent (1, C, h, w). */
internal fun sample(
    table: SamplerTable,
    evaluate: Evaluate,
    start: Floats,
    noise: (Int) -> Floats,
    firstRow: Int = 0,
    after: AfterStep? = null,
    preview: Preview? = null,
    callback: ((Step) -> Unit)? = null,
): Floats {
    val inputs = ArrayDeque<Floats>()
    val outputs = ArrayDeque<Floats>()
    var latent = start
    for (index in firstRow until table.rows.size) {
        val row = table.rows[index]
        val (output, states) = evaluate(latent, table.times[index])
        inputs.addFirst(latent)
        outputs.addFirst(output)
        if (inputs.size > MAX_HISTORY) {
            inputs.removeLast()
            outputs.removeLast()
        }
        latent = advance(row, inputs, outputs, if (row.noise != 0.0) noise(index + 1) else null)
        if (after != null) latent = after(latent, levelOf(table, index + 1))
        callback?.invoke(
            Step(
                index + 1 - firstRow, table.rows.size - firstRow, table.times[index], inputs.first(), output, latent, states,
                row.clean, preview,
            ),
        )
    }
    return latent
}

/** Noise level of the input of row [index], and of the final latent after the last row. */
private fun levelOf(table: SamplerTable, index: Int): Level? =
    if (index < table.rows.size) table.rows[index].level else Level.CLEAN

/**
 * The table for a sample, and the row that it starts at.
 *
 * @param tables of one image size, the default one first.
 * @param strength share of the steps that are run on an image, null without one.
 * @throws BundleError for a step count that the bundle does not have; lists those that it has.
 */
public fun chooseTable(tables: List<SamplerTable>, steps: Int?, strength: Double?): Pair<SamplerTable, Int> {
    val counts = tables.map { it.steps }.distinct()
    val wanted = steps ?: counts.first()
    if (wanted !in counts) throw BundleError("steps is $wanted; this bundle allows: ${counts.joinToString()}")
    val matching = tables.filter { it.steps == wanted }
    if (strength == null) {
        val table = matching.firstOrNull { it.strength == null }
            ?: throw BundleError("the sampler for $wanted steps needs an image to start from")
        return table to 0
    }
    val special = matching.filter { it.strength != null }
    if (special.isNotEmpty()) return special.minBy { abs((it.strength ?: 0.0) - strength) } to 0
    val table = matching.first()
    val count = table.rows.size
    val row = count - (strength * count + 0.5).toInt().coerceIn(1, count)
    val start = table.starts().minWithOrNull(compareBy({ abs(it - row) }, { it }))
        ?: throw BundleError("the sampler for $wanted steps cannot start from an image")
    return table to start
}

/** The decoder's latent, `latent * std + mean` per channel. */
internal fun denormalize(latent: Floats, space: LatentSpace): Floats =
    perChannel(latent, space) { value, mean, std -> value * std + mean }

/** The networks' latent of an encoder's, `(latent - mean) / std` per channel. */
internal fun normalize(latent: Floats, space: LatentSpace): Floats =
    perChannel(latent, space) { value, mean, std -> (value - mean) / std }

private inline fun perChannel(latent: Floats, space: LatentSpace, convert: (Float, Float, Float) -> Float): Floats {
    val positions = latent.data.size / space.channels
    return latent.map { index, value ->
        val channel = index / positions
        convert(value, space.mean[channel].toFloat(), space.std[channel].toFloat())
    }
}

/** A picture (h * patch, w * patch) of a clean latent (1, C, h, w). */
internal fun previewPixels(preview: Preview, clean: Floats): Pixels {
    val (_, channels, height, width) = clean.shape
    val patch = preview.patch
    val image = Floats(listOf(1, 3, height * patch, width * patch))
    for ((entry, weights) in preview.matrix.withIndex()) {
        val color = entry / (patch * patch)
        val row = entry / patch % patch
        val column = entry % patch
        val matrix = FloatArray(channels) { weights[it].toFloat() }
        for (y in 0 until height) {
            for (x in 0 until width) {
                var value = 0f
                for (channel in 0 until channels) value += matrix[channel] * clean.data[(channel * height + y) * width + x]
                val place = (color * height * patch + y * patch + row) * width * patch + x * patch + column
                image.data[place] = value + preview.bias[entry].toFloat()
            }
        }
    }
    return toPixels(image)
}

/**
 * (1, 3, H, W) in [0, 1] to bytes, rounded to the nearest, halves to the even number.
 *
 * @throws GenerationError when the image holds NaN or infinity: clipped, it would be black without a word.
 */
public fun toPixels(image: Floats): Pixels {
    val broken = image.data.count { !it.isFinite() }
    if (broken > 0) {
        throw GenerationError(
            "the model gave $broken of ${image.data.size} values that are not finite (NaN or infinity); no image is made: its weights " +
                "are damaged or overflow, use another build",
        )
    }
    val (_, _, height, width) = image.shape
    val bytes = ByteArray(3 * height * width)
    for (place in 0 until height * width) {
        for (channel in 0..2) {
            val level = image.data[channel * height * width + place].coerceIn(0f, 1f) * 255f
            bytes[3 * place + channel] = Math.rint(level.toDouble()).toInt().toByte()
        }
    }
    return Pixels(height, width, 3, bytes)
}

/** RGB bytes as float32 (1, 3, H, W) in [0, 1]. */
public fun fromPixels(pixels: Pixels): Floats {
    require(pixels.channels == 3) { "needed: 3 channels, got ${pixels.channels}" }
    val area = pixels.height * pixels.width
    val data = FloatArray(3 * area) { (pixels.data[it % area * 3 + it / area].toInt() and 0xFF).toFloat() / 255f }
    return Floats(listOf(1, 3, pixels.height, pixels.width), data)
}
