package io.microforge.runtime.images

import io.microforge.runtime.Floats
import io.microforge.runtime.Pixels
import io.microforge.runtime.SpecError
import io.microforge.runtime.bundle.Size
import io.microforge.runtime.bundle.SourceEntry
import io.microforge.runtime.fromPixels
import io.microforge.runtime.toPixels
import kotlin.math.ceil

/** An upright image in sRGB: its [colors] (3 channels), and its [alpha] (1 channel) or null. */
public class SourceImage(public val colors: Pixels, public val alpha: Pixels? = null) {
    /** Its size in pixels. */
    public val size: Size get() = Size(colors.height, colors.width)

    /** What is seen on white. */
    public val onWhite: Pixels by lazy { overWhite(colors, alpha) }

    public companion object {
        /** The image of RGB or RGBA [pixels]; alpha that is 255 everywhere is none. */
        public fun of(pixels: Pixels): SourceImage {
            if (pixels.channels == 3) return SourceImage(pixels)
            require(pixels.channels == 4) { "needed: 3 or 4 channels, got ${pixels.channels}" }
            val colors = pixelsLike(pixels, 3) { row, column, channel -> pixels[row, column, channel] }
            return SourceImage(colors, pixelsLike(pixels, 1) { row, column, _ -> pixels[row, column, 3] })
        }
    }
}

/**
 * What a task is to make of a source image.
 *
 * @property factor how many times larger the result is.
 * @property composite whether pixels without a visible change stay the source's own.
 * @property oversampling how many times larger still the model's image is, for a task that enlarges; 0 for the others.
 * @property fillsMask whether the model does not see the source where the mask is, so that the result is opaque there.
 */
public class SourceRequest internal constructor(
    public val task: String,
    public val source: SourceImage,
    public val mask: Mask?,
    public val factor: Int,
    public val composite: Boolean,
    internal val oversampling: Int,
    internal val fillsMask: Boolean,
) {
    internal val enlarges: Boolean get() = oversampling > 0

    /** How much larger the model's image is than its part of the source. */
    internal val magnification: Int get() = if (enlarges) factor * oversampling else 1
}

/** [source] (1, 3, H, W), of a task that enlarges smaller by the magnification, [mask] (1, 1, H, W) or null, and their place. */
internal class CanvasInputs(val source: Floats, val mask: Floats?, val place: Place)

/**
 * What [task], whose [entry] a bundle has, is to make of [source]; [factor] null is its smallest.
 *
 * @throws SpecError for a factor that the task does not have, or a mask of another size than the source's.
 */
public fun sourceRequest(
    task: String,
    entry: SourceEntry,
    source: SourceImage,
    mask: Mask? = null,
    factor: Int? = null,
    composite: Boolean = false,
): SourceRequest {
    val enlarge = entry.enlarge
    if (factor != null && (enlarge == null || factor !in enlarge.factors)) {
        throw SpecError("factor is $factor; allowed: ${enlarge?.factors?.joinToString() ?: "none, $task does not enlarge"}")
    }
    if (mask != null && Size(mask.height, mask.width) != source.size) {
        throw SpecError("the mask has ${mask.width}x${mask.height} pixels, the source ${source.size.width}x${source.size.height}")
    }
    return SourceRequest(
        task, source, mask, enlarge?.let { factor ?: it.factors.min() } ?: 1, composite, enlarge?.oversampling ?: 0,
        entry.maskedValue != null,
    )
}

/**
 * Of a bundle's [sizes] the one that suits the source best: for a task that enlarges the smallest that holds it, else the largest, which
 * enlarges it in tiles.
 */
public fun chooseSize(request: SourceRequest, sizes: List<Size>): Size {
    if (!request.enlarges) return bestCanvas(request.source.size, sizes)
    val byArea = sizes.sortedBy { it.height.toLong() * it.width }
    val height = request.source.size.height.toLong() * request.magnification
    val width = request.source.size.width.toLong() * request.magnification
    return byArea.firstOrNull { height <= it.height && width <= it.width } ?: byArea.last()
}

/** The parts of the source that images of [size] are made from: one, unless the task enlarges. */
internal fun split(request: SourceRequest, size: Size): List<Tile> =
    if (request.enlarges) {
        tiles(request.source.size, window(request, size))
    } else {
        listOf(Tile(0, 0, request.source.size.height, request.source.size.width))
    }

/** The source, and the mask, as a model of [size] takes them; to be enlarged the [tile]. */
internal fun toCanvas(request: SourceRequest, size: Size, tile: Tile): CanvasInputs {
    if (request.enlarges) {
        val place = unscaled(tile.size, window(request, size))
        return CanvasInputs(onCanvas(cropped(request.source.onWhite, tile.top, tile.left, tile.size), place), null, place)
    }
    val place = fitted(request.source.size, size)
    return CanvasInputs(onCanvas(request.source.onWhite, place), request.mask?.let { maskOnCanvas(it, place) }, place)
}

/** How much of the source one image of [size] enlarges; at least a pixel. */
private fun window(request: SourceRequest, size: Size) =
    Size(maxOf(1, size.height / request.magnification), maxOf(1, size.width / request.magnification))

/** The user's image, `factor` times larger, from enlarged tiles: joined, shrunk, and made to agree with the source. */
internal fun assembleEnlargement(request: SourceRequest, generated: List<Triple<Tile, CanvasInputs, Pixels>>): Pixels {
    val magnification = request.magnification
    val source = request.source
    val parts = generated.map { (tile, inputs, image) ->
        val place = inputs.place
        val size = Size(place.size.height * magnification, place.size.width * magnification)
        tile to cropped(image, place.top * magnification, place.left * magnification, size)
    }
    val joined = fromPixels(joined(parts, source.size, magnification))
    val large = if (request.oversampling == 1) joined else shrunk(joined, request.oversampling)
    val seen = toPixels(consistent(large, fromPixels(source.onWhite), request.factor))
    if (source.alpha == null) return seen
    val alpha = enlargeAlpha(source.alpha, request.factor)
    val colors = offWhite(seen, alpha, colorRange(source.colors, source.alpha, request.factor))
    return withAlpha(replaceFaint(colors, alpha, enlargeColors(source.colors, source.alpha, request.factor)), alpha)
}

/** Pixels of the source over which a model's image blurs an edge: two of the canvas. */
private fun softness(place: Place): Int {
    val scale = maxOf(place.own.height.toDouble() / place.size.height, place.own.width.toDouble() / place.size.width)
    return ceil(2 * scale).toInt().coerceIn(1, 32)
}

/** The user's image, not enlarged, with alpha where the source has it, from the model's. */
internal fun fromCanvas(request: SourceRequest, inputs: CanvasInputs, image: Pixels): Pixels {
    val source = request.source
    var colors = restored(image, inputs.place)
    val mask = request.mask
    val alpha = source.alpha?.let { own ->
        if (!request.fillsMask || mask == null) own else pixelsLike(own) { y, x, _ -> if (mask[y, x]) 255 else own[y, x, 0] }
    }
    if (alpha != null) {
        val clean = withoutRim(offWhite(colors, alpha), alpha, source.colors, softness(inputs.place))
        colors = replaceFaint(clean, alpha, source.colors)
    }
    val region = changedRegion(request, inputs, image)
    if (region != null) {
        val made = colors
        colors = pixelsLike(made) { y, x, channel -> if (region[y, x]) made[y, x, channel] else source.colors[y, x, channel] }
    }
    return if (alpha == null) colors else withAlpha(colors, alpha)
}

/** Pixels that are not the source's own; null for all of them. */
private fun changedRegion(request: SourceRequest, inputs: CanvasInputs, image: Pixels): Mask? {
    if (request.mask != null) return request.mask
    if (!request.composite) return null
    val moved = changed(image, toPixels(inputs.source))
    val levels = Pixels(moved.height, moved.width, 1, ByteArray(moved.marked.size) { if (moved.marked[it]) -1 else 0 })
    val own = restored(levels, inputs.place)
    return Mask(own.height, own.width, BooleanArray(own.data.size) { (own.data[it].toInt() and 0xFF) > 127 })
}

private fun withAlpha(colors: Pixels, alpha: Pixels): Pixels =
    pixelsLike(colors, 4) { row, column, channel -> if (channel < 3) colors[row, column, channel] else alpha[row, column, 0] }
