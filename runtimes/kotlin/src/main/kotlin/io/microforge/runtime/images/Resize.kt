package io.microforge.runtime.images

import io.microforge.runtime.Pixels
import kotlin.math.PI
import kotlin.math.ceil
import kotlin.math.sin

/** A kernel of Pillow's `resize`. */
internal enum class ResizeFilter(val support: Double) {
    LANCZOS(3.0) {
        override fun weight(x: Double) = if (x >= -support && x < support) sinc(x) * sinc(x / support) else 0.0
    },
    BOX(0.5) {
        override fun weight(x: Double) = if (x > -support && x <= support) 1.0 else 0.0
    }, ;

    abstract fun weight(x: Double): Double

    protected fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(x * PI) / (x * PI)
}

/** Bits behind the point of Pillow's integer coefficients, and half of one unit. */
private const val PRECISION = 22
private const val HALF = 1 shl (PRECISION - 1)

/** What every pixel of one axis takes: the first pixel before, and the weights from it on. */
private class Taps(val first: IntArray, val weights: kotlin.Array<DoubleArray>) {
    val integers = weights.map { row ->
        IntArray(row.size) { (row[it] * (1 shl PRECISION) + if (row[it] < 0) -0.5 else 0.5).toInt() }
    }
}

private fun taps(before: Int, after: Int, filter: ResizeFilter): Taps {
    val scale = before.toDouble() / after
    val stretch = maxOf(scale, 1.0)
    val support = filter.support * stretch
    val first = IntArray(after)
    val weights = kotlin.Array(after) { index ->
        val centre = (index + 0.5) * scale
        val start = maxOf(0, (centre - support + 0.5).toInt())
        val end = minOf(before, (centre + support + 0.5).toInt())
        first[index] = start
        val row = DoubleArray(minOf(end - start, ceil(support).toInt() * 2 + 1)) { filter.weight((it + start - centre + 0.5) * (1.0 / stretch)) }
        var sum = 0.0
        for (weight in row) sum += weight
        DoubleArray(row.size) { if (sum == 0.0) row[it] else row[it] * (1.0 / sum) }
    }
    return Taps(first, weights)
}

/** [pixels] at [height] x [width], anti-aliased, with the integer arithmetic of Pillow; the same object when nothing changes. */
internal fun resized(pixels: Pixels, height: Int, width: Int, filter: ResizeFilter = ResizeFilter.LANCZOS): Pixels {
    var result = pixels
    if (width != pixels.width) {
        val across = taps(pixels.width, width, filter)
        result = Pixels(pixels.height, width, pixels.channels, ByteArray(pixels.height * width * pixels.channels))
        forEachByte(result) { row, column, channel ->
            sum(across, column) { pixels[row, it, channel] }
        }
    }
    if (height != result.height) {
        val down = taps(result.height, height, filter)
        val wide = result
        result = Pixels(height, width, pixels.channels, ByteArray(height * width * pixels.channels))
        forEachByte(result) { row, column, channel -> sum(down, row) { wide[it, column, channel] } }
    }
    return result
}

private inline fun sum(taps: Taps, index: Int, level: (Int) -> Int): Int {
    val weights = taps.integers[index]
    var sum = HALF
    for (tap in weights.indices) sum += level(taps.first[index] + tap) * weights[tap]
    return (sum shr PRECISION).coerceIn(0, 255)
}

/** One plane of numbers, row by row. */
internal class Plane(val height: Int, val width: Int, val data: FloatArray)

/** [plane] at [height] x [width], anti-aliased, in double precision as Pillow's mode F. */
internal fun resized(plane: Plane, height: Int, width: Int, filter: ResizeFilter = ResizeFilter.LANCZOS): Plane {
    var result = plane
    if (width != plane.width) {
        val across = taps(plane.width, width, filter)
        result = Plane(
            plane.height, width,
            FloatArray(plane.height * width) { place ->
                val (row, column) = place / width to place % width
                weighted(across, column) { plane.data[row * plane.width + it] }
            },
        )
    }
    if (height == result.height) return result
    val down = taps(result.height, height, filter)
    val wide = result
    return Plane(height, width, FloatArray(height * width) { place -> weighted(down, place / width) { wide.data[it * width + place % width] } })
}

private inline fun weighted(taps: Taps, index: Int, value: (Int) -> Float): Float {
    val weights = taps.weights[index]
    var sum = 0.0
    for (tap in weights.indices) sum += value(taps.first[index] + tap) * weights[tap]
    return sum.toFloat()
}

internal inline fun forEachByte(pixels: Pixels, level: (Int, Int, Int) -> Int) {
    var place = 0
    for (row in 0 until pixels.height) {
        for (column in 0 until pixels.width) {
            for (channel in 0 until pixels.channels) pixels.data[place++] = level(row, column, channel).toByte()
        }
    }
}
