package io.microforge.runtime.images

import io.microforge.runtime.Floats
import io.microforge.runtime.Pixels
import io.microforge.runtime.bundle.Size
import io.microforge.runtime.fromPixels
import kotlin.math.abs

// An image of any size on a model's canvas, and back. A picture is scaled until one side fills the canvas, centred, and its border
// pixels are repeated up to the canvas's edge: a model that was trained on whole images sees no frame.

/** A pixel has changed when a channel, averaged over 3 x 3 pixels, differs by more than this. */
private const val DIFFERENCE_THRESHOLD = 0.10

/** Minimum radius of a changed region, and the margin around it, as shares of the shorter side. */
private const val MIN_RADIUS = 0.012
private const val MARGIN = 0.03

/** Where a picture of [own] lies on a [canvas]: [size] pixels from [top], [left]. */
public data class Place(public val own: Size, public val canvas: Size, public val size: Size, public val top: Int, public val left: Int)

/** Which pixels of an image are marked, row by row. */
public class Mask(public val height: Int, public val width: Int, public val marked: BooleanArray) {
    init {
        require(marked.size == height * width) { "${marked.size} values do not fill $height x $width" }
    }

    internal operator fun get(row: Int, column: Int) = marked[row * width + column]
}

/** A picture of [own] as large as [canvas] holds it, whatever its shape. */
public fun fitted(own: Size, canvas: Size): Place {
    val scale = minOf(canvas.height.toDouble() / own.height, canvas.width.toDouble() / own.width)

    fun side(before: Int, most: Int) = minOf(maxOf(1, Math.rint(before * scale).toInt()), most)
    return centred(own, canvas, Size(side(own.height, canvas.height), side(own.width, canvas.width)))
}

/** A picture of [own], no larger than the canvas, pixel for pixel. */
internal fun unscaled(own: Size, canvas: Size): Place = centred(own, canvas, own)

private fun centred(own: Size, canvas: Size, size: Size) =
    Place(own, canvas, size, (canvas.height - size.height) / 2, (canvas.width - size.width) / 2)

/** The canvas that a picture of [own] leaves least of unused; the largest of equal ones. */
public fun bestCanvas(own: Size, canvases: List<Size>): Size = canvases.maxWith(
    compareBy({ canvas ->
        val place = fitted(own, canvas)
        Math.rint(place.size.height.toDouble() * place.size.width / (canvas.height.toDouble() * canvas.width) * 1000) / 1000
    }, { it.height.toLong() * it.width }),
)

/** RGB [pixels] as the (1, 3, H, W) in [0, 1] that the networks take. */
public fun onCanvas(pixels: Pixels, place: Place): Floats {
    val shown = resized(pixels, place.size.height, place.size.width)
    val wide = Pixels(place.canvas.height, place.canvas.width, 3, ByteArray(3 * place.canvas.height * place.canvas.width))
    forEachByte(wide) { row, column, channel ->
        shown[(row - place.top).coerceIn(0, shown.height - 1), (column - place.left).coerceIn(0, shown.width - 1), channel]
    }
    return fromPixels(wide)
}

/** (1, 1, H, W): 1 on pixels that [mask] covers in part (scaled up: at their centre), 0 in the padding. */
public fun maskOnCanvas(mask: Mask, place: Place): Floats {
    val plane = Plane(mask.height, mask.width, FloatArray(mask.marked.size) { if (mask.marked[it]) 1f else 0f })
    val shown = resized(plane, place.size.height, place.size.width, ResizeFilter.BOX)
    val result = Floats(listOf(1, 1, place.canvas.height, place.canvas.width))
    for (row in 0 until shown.height) {
        for (column in 0 until shown.width) {
            val covered = shown.data[row * shown.width + column] > 1e-6
            if (covered) result.data[(row + place.top) * place.canvas.width + column + place.left] = 1f
        }
    }
    return result
}

/** The picture at its own size from the canvas. */
public fun restored(image: Pixels, place: Place): Pixels =
    resized(cropped(image, place.top, place.left, place.size), place.own.height, place.own.width)

internal fun cropped(image: Pixels, top: Int, left: Int, size: Size): Pixels {
    if (size == Size(image.height, image.width)) return image
    val part = Pixels(size.height, size.width, image.channels, ByteArray(size.height * size.width * image.channels))
    forEachByte(part) { row, column, channel -> image[top + row, left + column, channel] }
    return part
}

/** Where an edit visibly changed its [source], and a little around it. */
public fun changed(image: Pixels, source: Pixels): Mask {
    val shorter = minOf(image.height, image.width)
    val core = maxOf(1, Math.rint(MIN_RADIUS * shorter).toInt())
    val reach = maxOf(1, Math.rint(MARGIN * shorter).toInt())
    val seen = Mask(
        image.height, image.width,
        BooleanArray(image.height * image.width) { place ->
            (0..2).maxOf { abs(meanDifference(image, source, place / image.width, place % image.width, it)) } > DIFFERENCE_THRESHOLD
        },
    )
    return dilated(eroded(seen, core), reach + core)
}

private fun meanDifference(image: Pixels, source: Pixels, row: Int, column: Int, channel: Int): Double {
    var sum = 0.0
    for (y in row - 1..row + 1) {
        for (x in column - 1..column + 1) {
            if (y in 0 until image.height && x in 0 until image.width) sum += (image[y, x, channel] - source[y, x, channel]) / 255.0
        }
    }
    return sum / 9.0
}

/** Pixels with nothing but marked ones up to [radius] around; beyond the edge everything is marked. */
private fun eroded(mask: Mask, radius: Int): Mask {
    val opposite = dilated(Mask(mask.height, mask.width, BooleanArray(mask.marked.size) { !mask.marked[it] }), radius)
    return Mask(mask.height, mask.width, BooleanArray(mask.marked.size) { !opposite.marked[it] })
}

/** Pixels with a marked one up to [radius] away on both axes. */
private fun dilated(mask: Mask, radius: Int): Mask {
    val across = BooleanArray(mask.marked.size) { place ->
        val (row, column) = place / mask.width to place % mask.width
        (maxOf(0, column - radius)..minOf(mask.width - 1, column + radius)).any { mask[row, it] }
    }
    val wide = Mask(mask.height, mask.width, across)
    val both = BooleanArray(mask.marked.size) { place ->
        val (row, column) = place / mask.width to place % mask.width
        (maxOf(0, row - radius)..minOf(mask.height - 1, row + radius)).any { wide[it, column] }
    }
    return Mask(mask.height, mask.width, both)
}
