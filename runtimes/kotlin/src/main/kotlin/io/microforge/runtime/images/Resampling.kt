package io.microforge.runtime.images

import io.microforge.runtime.Floats
import io.microforge.runtime.SpecError
import kotlin.math.abs
import kotlin.math.floor

// Bicubic resampling as products with matrices, one per axis: the same as torch's interpolate(mode="bicubic").

/** Factors by which one generated image may enlarge its part of the source. */
internal val MAGNIFICATIONS = listOf(2, 4, 8)

/** Slopes of Keys' kernel to enlarge, and to shrink with anti-aliasing. */
private const val SLOPE = -0.75
private const val SMOOTH_SLOPE = -0.5

/** Rows of numbers. */
internal typealias Matrix = Array<DoubleArray>

/**
 * [image] (1, 3, h, w) [factor] times larger, bicubic, clipped to [0, 1].
 *
 * @throws SpecError for a factor that is not allowed.
 */
internal fun upsampled(image: Floats, factor: Int): Floats {
    if (factor !in MAGNIFICATIONS) {
        throw SpecError("the factor of one super-resolved image is $factor; allowed: ${MAGNIFICATIONS.joinToString()}")
    }
    val (_, _, height, width) = image.shape
    return resampled(image, enlarging(height, factor), enlarging(width, factor))
}

/** [image] (1, 3, H, W) [factor] times smaller, bicubic with anti-aliasing, clipped to [0, 1]. */
internal fun shrunk(image: Floats, factor: Int): Floats {
    val (_, _, height, width) = image.shape
    return resampled(image, shrinking(height / factor, factor), shrinking(width / factor, factor))
}

/**
 * [image] moved as little as possible to where, shrunk by [factor], it is [source]: `x + D+ (s - D x)`, the orthogonal projection
 * onto all images that shrink to the source (arXiv 2212.00490).
 */
internal fun consistent(image: Floats, source: Floats, factor: Int): Floats {
    val (_, _, height, width) = source.shape
    val down = listOf(shrinking(height, factor), shrinking(width, factor))
    val up = down.map(::pseudoInverse)
    val result = Floats(image.shape)
    val area = image.data.size / 3
    for (channel in 0..2) {
        val plane = plane(image, channel)
        val small = multiply(multiply(down[0], plane), transposed(down[1]))
        val missing = plane(source, channel)
        for (row in missing.indices) for (column in missing[row].indices) missing[row][column] -= small[row][column]
        val change = multiply(multiply(up[0], missing), transposed(up[1]))
        for (row in plane.indices) {
            for (column in plane[row].indices) {
                val value = (plane[row][column] + change[row][column]).coerceIn(0.0, 1.0)
                result.data[channel * area + row * plane[row].size + column] = value.toFloat()
            }
        }
    }
    return result
}

private fun resampled(image: Floats, rows: Matrix, columns: Matrix): Floats {
    val result = Floats(listOf(1, 3, rows.size, columns.size))
    val across = transposed(columns)
    for (channel in 0..2) {
        val plane = multiply(multiply(rows, plane(image, channel)), across)
        for (row in plane.indices) {
            for (column in plane[row].indices) {
                val place = (channel * rows.size + row) * columns.size + column
                result.data[place] = plane[row][column].coerceIn(0.0, 1.0).toFloat()
            }
        }
    }
    return result
}

private fun plane(image: Floats, channel: Int): Matrix {
    val (_, _, height, width) = image.shape
    return Matrix(height) { row -> DoubleArray(width) { image.data[(channel * height + row) * width + it].toDouble() } }
}

/** (side * factor, side): what every pixel of one axis takes from the pixels before. */
private fun enlarging(side: Int, factor: Int): Matrix = Matrix(side * factor) { index ->
    val place = (index + 0.5) / factor - 0.5
    val first = floor(place).toInt()
    val row = DoubleArray(side)
    for (offset in -1..2) row[(first + offset).coerceIn(0, side - 1)] += kernel(abs(place - (first + offset)), SLOPE)
    row
}

/** (side, side * factor): the kernel widened by the factor, cut at the borders, its taps summing to 1. */
private fun shrinking(side: Int, factor: Int): Matrix = Matrix(side) { index ->
    val centre = (index + 0.5) * factor
    val row = DoubleArray(side * factor) { kernel(abs(it + 0.5 - centre) / factor, SMOOTH_SLOPE) }
    val sum = row.sum()
    DoubleArray(row.size) { row[it] / sum }
}

/** (side * factor, side): the pseudo-inverse of a shrinking matrix D, `D^T (D D^T)^-1`. */
private fun pseudoInverse(down: Matrix): Matrix = transposed(solve(multiply(down, transposed(down)), down))

/** X with A X = B, by elimination with pivots. */
private fun solve(left: Matrix, right: Matrix): Matrix {
    val a = Matrix(left.size) { left[it].copyOf() }
    val b = Matrix(right.size) { right[it].copyOf() }
    for (pivot in a.indices) {
        val best = (pivot until a.size).maxBy { abs(a[it][pivot]) }
        a[pivot] = a[best].also { a[best] = a[pivot] }
        b[pivot] = b[best].also { b[best] = b[pivot] }
        for (row in a.indices) {
            if (row == pivot) continue
            val factor = a[row][pivot] / a[pivot][pivot]
            if (factor == 0.0) continue
            for (column in pivot until a.size) a[row][column] -= factor * a[pivot][column]
            for (column in b[row].indices) b[row][column] -= factor * b[pivot][column]
        }
    }
    for (row in b.indices) for (column in b[row].indices) b[row][column] /= a[row][row]
    return b
}

/** Products with zero are skipped: the matrices of an axis are banded. */
private fun multiply(left: Matrix, right: Matrix): Matrix = Matrix(left.size) { row ->
    val sums = DoubleArray(right[0].size)
    for (inner in right.indices) {
        val factor = left[row][inner]
        if (factor == 0.0) continue
        for (column in sums.indices) sums[column] += factor * right[inner][column]
    }
    sums
}

private fun transposed(matrix: Matrix): Matrix = Matrix(matrix[0].size) { row -> DoubleArray(matrix.size) { matrix[it][row] } }

/** Keys' cubic convolution (1981) at a distance in pixels; nothing from 2 on. */
private fun kernel(distance: Double, slope: Double): Double = when {
    distance <= 1.0 -> ((slope + 2.0) * distance - (slope + 3.0)) * distance * distance + 1.0
    distance < 2.0 -> ((slope * distance - 5.0 * slope) * distance + 8.0 * slope) * distance - 4.0 * slope
    else -> 0.0
}
