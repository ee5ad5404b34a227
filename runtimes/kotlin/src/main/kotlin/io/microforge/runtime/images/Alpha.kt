package io.microforge.runtime.images

import io.microforge.runtime.Pixels

// Transparent images: laid on white for a model, and taken off white again. A model knows opaque images only; what it made of a
// half-transparent red is a pink, and written back beside the alpha of the source the white would count twice.

/** Below this alpha an image laid on white says too little about its own colour. */
private const val FAINT = 16f

/** A level of the darkest channel from which a colour counts as white of the source's own. */
private const val NEARLY_WHITE = 200

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

/**
 * [colors], taken off white, without the white that a model let into the edge of what is visible. A model's image has soft edges,
 * softer than [alpha]: what lies just inside an outline holds some of the white around it. So much white is taken off there that no
 * colour is lighter than those deeper inside. Where the source's colours [own] are nearly white, and in parts that have no inside,
 * nothing changes. White may have come in by [reach] pixels.
 */
internal fun withoutRim(colors: Pixels, alpha: Pixels, own: Pixels, reach: Int): Pixels {
    val inside = spread(pixelsLike(alpha, 1) { y, x, _ -> if (alpha[y, x, 0] == 255) 1 else 0 }, reach, ::minOf)
    val nearInside = spread(inside, 3 * reach, ::maxOf)
    val lightest = spread(pixelsLike(colors) { y, x, c -> if (inside[y, x, 0] > 0) colors[y, x, c] else 0 }, 3 * reach, ::maxOf)
    val ownLightest = spread(pixelsLike(own) { y, x, c -> if (alpha[y, x, 0] > 0) own[y, x, c] else 0 }, reach, ::maxOf)

    fun whiteShare(y: Int, x: Int): Float {
        val ownIsWhite = (0..2).minOf { ownLightest[y, x, it] } >= NEARLY_WHITE
        if (inside[y, x, 0] > 0 || nearInside[y, x, 0] == 0 || ownIsWhite) return 0f
        val white = (0..2).maxOf { (colors[y, x, it] - lightest[y, x, it].toFloat()) / maxOf(255f - lightest[y, x, it], 1f) }
        return minOf(maxOf(white, 0f), 0.95f)
    }

    return pixelsLike(colors) { y, x, c ->
        val share = whiteShare(y, x)
        val clean = minOf(maxOf((colors[y, x, c] - 255f * share) / (1f - share), 0f), 255f)
        val unknown = minOf(maxOf((share - 0.5f) / 0.4f, 0f), 1f) // what is nearly all white says too little about its own colour
        rounded((1f - unknown) * clean + unknown * lightest[y, x, c])
    }
}

/** As [around], one axis after the other and in steps of doubled width: for a long [reach]. */
private fun spread(values: Pixels, reach: Int, extreme: (Int, Int) -> Int): Pixels {
    val rows = spreadRows(values, reach, extreme)
    return transposed(spreadRows(transposed(rows), reach, extreme))
}

private fun transposed(image: Pixels): Pixels =
    Pixels(image.width, image.height, image.channels, ByteArray(image.data.size)).also { turned ->
        forEachByte(turned) { row, column, channel -> image[column, row, channel] }
    }

private fun spreadRows(values: Pixels, reach: Int, extreme: (Int, Int) -> Int): Pixels {
    val lines = Array(values.height * values.channels) { line ->
        val (row, channel) = line / values.channels to line % values.channels
        val wide = IntArray(values.width + 2 * reach) { values[row, (it - reach).coerceIn(0, values.width - 1), channel] }
        var covered = 1
        var size = wide.size
        while (covered < 2 * reach + 1) {
            val step = minOf(covered, 2 * reach + 1 - covered)
            size -= step
            for (index in 0 until size) wide[index] = extreme(wide[index], wide[index + step])
            covered += step
        }
        wide
    }
    return pixelsLike(values) { row, column, channel -> lines[row * values.channels + channel][column] }
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
