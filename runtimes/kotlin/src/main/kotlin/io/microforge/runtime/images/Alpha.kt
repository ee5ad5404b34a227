package io.microforge.runtime.images

import io.microforge.runtime.Pixels

// Transparent images: laid on white for a model, and taken off white again. A model knows opaque images only; what it made of a
// half-transparent red is a pink, and written back beside the alpha of the source the white would count twice.

/** Below this alpha an image laid on white says too little about its own colour. */
private const val FAINT = 16f

/** Distance in source pixels up to which a pixel visibly changes an enlarged image. */
private const val REACH = 4

/** The smallest and largest levels that colours may have. */
internal class ColorRange(val low: Pixels, val high: Pixels)

private fun cover(alpha: Pixels, row: Int, column: Int): Float = alpha[row, column, 0] / 255f

private fun rounded(value: Float): Int = Math.rint(value.toDouble()).toInt()

internal inline fun pixelsLike(image: Pixels, channels: Int = image.channels, level: (Int, Int, Int) -> Int): Pixels =
    Pixels(image.height, image.width, channels, ByteArray(image.height * image.width * channels)).also { forEachByte(it, level) }

/** [colors] as they are seen on white. */
internal fun overWhite(colors: Pixels, alpha: Pixels?): Pixels {
    if (alpha == null) return colors
    return pixelsLike(colors) { row, column, channel ->
        val cover = cover(alpha, row, column)
        rounded(colors[row, column, channel] * cover + 255f * (1f - cover))
    }
}

/** The colours that are [seen] when they lie on white with [alpha], within [range]. */
internal fun offWhite(seen: Pixels, alpha: Pixels, range: ColorRange? = null): Pixels = pixelsLike(seen) { row, column, channel ->
    val cover = cover(alpha, row, column)
    val own = (seen[row, column, channel] - 255f * (1f - cover)) / maxOf(cover, 1f / 255f)
    val low = range?.low?.get(row, column, channel) ?: 0
    val high = range?.high?.get(row, column, channel) ?: 255
    rounded(minOf(maxOf(own, low.toFloat()), high.toFloat()))
}

/** [colors], and where [alpha] is nearly 0 the colours [own] instead, with a soft change. */
internal fun replaceFaint(colors: Pixels, alpha: Pixels, own: Pixels): Pixels = pixelsLike(colors) { row, column, channel ->
    val share = minOf(alpha[row, column, 0] / FAINT, 1f)
    rounded(share * colors[row, column, channel] + (1f - share) * own[row, column, channel])
}

/** [alpha] [factor] times larger. */
internal fun enlargeAlpha(alpha: Pixels, factor: Int): Pixels = resized(alpha, alpha.height * factor, alpha.width * factor)

/** [colors] [factor] times larger, each weighted by its [alpha]: invisible colours do not mix in. */
internal fun enlargeColors(colors: Pixels, alpha: Pixels, factor: Int): Pixels {
    val area = colors.height * colors.width
    val weight = FloatArray(area) { (alpha.data[it].toInt() and 0xFF) / 255f }

    fun enlarged(values: FloatArray) =
        resized(Plane(colors.height, colors.width, values), colors.height * factor, colors.width * factor).data
    val largeWeight = enlarged(weight)
    val planes = (0..2).map { channel ->
        val plane = FloatArray(area) { (colors.data[3 * it + channel].toInt() and 0xFF).toFloat() }
        val weighted = enlarged(FloatArray(area) { plane[it] * weight[it] })
        val plain = enlarged(plane)
        FloatArray(plain.size) { if (largeWeight[it] > 1e-2f) weighted[it] / maxOf(largeWeight[it], 1e-3f) else plain[it] }
    }
    val large = Pixels(colors.height * factor, colors.width * factor, 3, ByteArray(3 * area * factor * factor))
    forEachByte(large) { row, column, channel -> rounded(planes[channel][row * large.width + column]).coerceIn(0, 255) }
    return large
}

/**
 * Levels that [colors] may have after they were enlarged on white, [factor] times larger: near pixels that are not opaque the smallest
 * and largest visible levels of 3 x 3 pixels around, elsewhere all.
 */
internal fun colorRange(colors: Pixels, alpha: Pixels, factor: Int): ColorRange {
    val lowest = around(pixelsLike(colors) { y, x, c -> if (alpha[y, x, 0] > 0) colors[y, x, c] else 255 }, 1, ::minOf)
    val highest = around(pixelsLike(colors) { y, x, c -> if (alpha[y, x, 0] > 0) colors[y, x, c] else 0 }, 1, ::maxOf)
    val opaque = around(alpha, REACH, ::minOf)

    fun level(y: Int, x: Int, c: Int, edge: Int, extreme: Pixels) = when {
        opaque[y, x, 0] == 255 -> edge
        lowest[y, x, c] > highest[y, x, c] -> colors[y, x, c]
        else -> extreme[y, x, c]
    }
    return ColorRange(
        repeated(pixelsLike(colors) { y, x, c -> level(y, x, c, 0, lowest) }, factor),
        repeated(pixelsLike(colors) { y, x, c -> level(y, x, c, 255, highest) }, factor),
    )
}

private fun around(values: Pixels, reach: Int, extreme: (Int, Int) -> Int): Pixels = pixelsLike(values) { row, column, channel ->
    var result = values[row, column, channel]
    for (y in maxOf(0, row - reach)..minOf(values.height - 1, row + reach)) {
        for (x in maxOf(0, column - reach)..minOf(values.width - 1, column + reach)) result = extreme(result, values[y, x, channel])
    }
    result
}

private fun repeated(image: Pixels, factor: Int): Pixels {
    val large = Pixels(image.height * factor, image.width * factor, image.channels, ByteArray(image.data.size * factor * factor))
    forEachByte(large) { row, column, channel -> image[row / factor, column / factor, channel] }
    return large
}
