package io.microforge.runtime

/** What engines take and give: numbers in a static shape, in C order. */
public sealed interface Tensor {
    /** Sides from the outermost to the innermost. */
    public val shape: List<Int>
}

/** float32 numbers; an engine converts them to float16 where a component wants that. */
public class Floats(override val shape: List<Int>, public val data: FloatArray) : Tensor {
    init {
        require(data.size == elements(shape)) { "${data.size} numbers do not fill $shape" }
    }

    /** Zeros. */
    public constructor(shape: List<Int>) : this(shape, FloatArray(elements(shape)))

    internal inline fun map(transform: (Int, Float) -> Float): Floats =
        Floats(shape, FloatArray(data.size) { transform(it, data[it]) })
}

/** int64 numbers; an engine converts them to int32 where a component wants that. */
public class Integers(override val shape: List<Int>, public val data: LongArray) : Tensor {
    init {
        require(data.size == elements(shape)) { "${data.size} numbers do not fill $shape" }
    }
}

/** An image of bytes: [channels] 3 (RGB) or 4 (RGBA, not premultiplied) per pixel, row by row. */
public class Pixels(public val height: Int, public val width: Int, public val channels: Int, public val data: ByteArray) {
    init {
        require(data.size == height * width * channels) { "${data.size} bytes do not fill $height x $width x $channels" }
    }

    /** The level 0 to 255 of one channel of one pixel. */
    public operator fun get(row: Int, column: Int, channel: Int): Int =
        data[(row * width + column) * channels + channel].toInt() and 0xFF
}

internal fun elements(shape: List<Int>): Int = shape.fold(1) { product, side -> Math.multiplyExact(product, side) }
