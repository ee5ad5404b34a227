package io.microforge.runtime.images

import io.microforge.runtime.Pixels
import io.microforge.runtime.SpecError
import io.microforge.runtime.bundle.Size
import kotlin.math.ceil

/** Share of a tile's side that it has in common with its neighbour, at least. */
private const val OVERLAP = 0.25

/** Largest number of tiles; each takes a whole run of the model. */
private const val MOST = 256

/** A part of a picture, in its own pixels: [height] x [width] from [top], [left]. */
public data class Tile(public val top: Int, public val left: Int, public val height: Int, public val width: Int) {
    internal val size: Size get() = Size(height, width)
}

/**
 * Tiles of at most [window] that cover a picture of [own], row by row.
 *
 * @throws SpecError when it takes too many.
 */
internal fun tiles(own: Size, window: Size): List<Tile> {
    val rows = spans(own.height, window.height)
    val columns = spans(own.width, window.width)
    val count = rows.size.toLong() * columns.size
    if (count > MOST) {
        throw SpecError(
            "the source has ${own.width}x${own.height} pixels; this model enlarges ${window.width}x${window.height} at a time, which " +
                "takes $count tiles, at most $MOST are allowed: shrink the source, or crop a part of it",
        )
    }
    return rows.flatMap { (top, height) -> columns.map { (left, width) -> Tile(top, left, height, width) } }
}

/** Start and length of the parts of one axis, evenly spread. */
private fun spans(side: Int, window: Int): List<Pair<Int, Int>> {
    if (side <= window) return listOf(0 to side)
    val step = maxOf(1, window - ceil(OVERLAP * window).toInt())
    val count = (side - window + step - 1) / step + 1
    return List(count) { Math.rint(it.toDouble() * (side - window) / (count - 1)).toInt() to window }
}

/** One picture, [factor] times larger than [own], from enlarged tiles, weighted by the distance from their inner edges. */
internal fun joined(parts: List<Pair<Tile, Pixels>>, own: Size, factor: Int): Pixels {
    val width = own.width * factor
    val total = DoubleArray(own.height * factor * width * 3)
    val weight = DoubleArray(own.height * factor * width)
    for ((tile, pixels) in parts) {
        val down = fade(tile.top, tile.height, own.height, factor)
        val across = fade(tile.left, tile.width, own.width, factor)
        for (row in down.indices) {
            for (column in across.indices) {
                val cover = down[row] * across[column]
                val place = (row + tile.top * factor) * width + column + tile.left * factor
                weight[place] += cover
                for (channel in 0..2) total[3 * place + channel] += cover * pixels[row, column, channel]
            }
        }
    }
    return Pixels(own.height * factor, width, 3, ByteArray(total.size) { Math.rint(total[it] / weight[it / 3]).toInt().toByte() })
}

/** Weights of one axis of a tile: 1, falling towards an edge that is not the picture's own. */
private fun fade(start: Int, length: Int, side: Int, factor: Int): DoubleArray {
    val large = length * factor
    val ramp = DoubleArray(large) { minOf((it + 0.5) / maxOf(1.0, OVERLAP * large), 1.0) }
    return DoubleArray(large) { index ->
        val before = if (start > 0) ramp[index] else 1.0
        before * if (start + length < side) ramp[large - 1 - index] else 1.0
    }
}
