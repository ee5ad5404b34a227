package io.microforge.runtime

import io.microforge.runtime.bundle.Level
import kotlin.math.sqrt

// What happens to the user's image beside the networks. Images are (1, 3, H, W) in [0, 1], masks (1, 1, H, W) of zeros and
// ones, latents (1, C, h, w); all arithmetic is float32 at every operation.

/**
 * [mask] as zeros and ones.
 *
 * @throws SpecError when its shape is not (1, 1, [height], [width]), or no pixel is marked.
 */
internal fun checkMask(mask: Floats, height: Int, width: Int): Floats {
    val needed = listOf(1, 1, height, width)
    if (mask.shape != needed) throw SpecError("the mask is ${mask.shape}; it must be $needed, as the image")
    val binary = mask.map { _, value -> if (value > 0.5f) 1f else 0f }
    if (binary.data.none { it > 0f }) throw SpecError("the mask is all zero; mark the pixels that may change with 1")
    return binary
}

/** [image] with [value] where [mask] is 1. */
internal fun masked(image: Floats, mask: Floats, value: Double): Floats =
    image.map { index, level -> if (mask.data[index % mask.data.size] > 0f) value.toFloat() else level }

/** [image] where [mask] is 1 and [source], bit for bit, elsewhere. */
internal fun composited(image: Floats, source: Floats, mask: Floats): Floats =
    image.map { index, level -> if (mask.data[index % mask.data.size] > 0f) level else source.data[index] }

/** (1, 1, h, w): 1 for every latent position with a masked pixel; such a position may change as a whole. */
internal fun latentMask(mask: Floats, downsample: Int): Floats {
    val (_, _, height, width) = mask.shape
    val positions = Floats(listOf(1, 1, height / downsample, width / downsample))
    for (row in 0 until height) {
        for (column in 0 until width) {
            val place = row / downsample * (width / downsample) + column / downsample
            positions.data[place] = maxOf(positions.data[place], mask.data[row * width + column])
        }
    }
    return positions
}

/**
 * What is done to the latent after each step, or null for nothing.
 *
 * @param known the image's latent; [noise] the sample started from.
 * @param cells the latent mask; null lets all latents change.
 * @param distances `preserve_distances` of the task; null leaves the final latent as sampled.
 */
internal fun afterStep(known: Floats, noise: Floats, cells: Floats?, distances: Pair<Double, Double>?): AfterStep? {
    if (cells == null && distances == null) return null
    return { latent, level ->
        var result = latent
        if (cells != null && level != null) {
            val outside = atLevel(level, known, noise)
            result = result.map { index, value -> if (cells.data[index % cells.data.size] > 0f) value else outside.data[index] }
        }
        if (level == Level.CLEAN && distances != null) preserveSource(result, known, distances) else result
    }
}

/** [latent] where it differs from [known], and next to there; [known] elsewhere. */
internal fun preserveSource(latent: Floats, known: Floats, distances: Pair<Double, Double>): Floats {
    val near = distances.first.toFloat()
    val far = distances.second.toFloat()
    val (_, channels, height, width) = latent.shape
    val area = height * width
    val changed = FloatArray(area) { place ->
        var sum = 0f
        for (channel in 0 until channels) {
            val difference = latent.data[channel * area + place] - known.data[channel * area + place]
            sum += difference * difference
        }
        ((sqrt(sum / channels) - near) / (far - near)).coerceIn(0f, 1f)
    }
    val widened = FloatArray(area) { place ->
        var largest = 0f
        for (row in maxOf(0, place / width - 1)..minOf(height - 1, place / width + 1)) {
            for (column in maxOf(0, place % width - 1)..minOf(width - 1, place % width + 1)) {
                largest = maxOf(largest, changed[row * width + column])
            }
        }
        largest
    }
    return latent.map { index, value -> known.data[index] + widened[index % area] * (value - known.data[index]) }
}
