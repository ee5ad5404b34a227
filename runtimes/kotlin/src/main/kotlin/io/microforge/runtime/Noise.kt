package io.microforge.runtime

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.ln
import kotlin.math.sin
import kotlin.math.sqrt

/** The name that a bundle's manifest gives this generator. */
public const val NOISE_NAME: String = "philox4x32-10/box-muller"

private const val LOW = 0xFFFFFFFFL
private const val ROUNDS = 10
private const val MULTIPLIER0 = 0xD2511F53L
private const val MULTIPLIER1 = 0xCD9E8D57L
private const val KEY_STEP0 = 0x9E3779B9L
private const val KEY_STEP1 = 0xBB67AE85L

/** Four random words of ten Philox rounds on [counter] (four words) under [key] (two words); Salmon et al. 2011. */
public fun philox4x32(counter: LongArray, key: LongArray): LongArray {
    var (c0, c1, c2, c3) = counter
    var (k0, k1) = key
    repeat(ROUNDS) {
        val product0 = MULTIPLIER0 * c0
        val product1 = MULTIPLIER1 * c2
        c0 = (product1 ushr 32) xor c1 xor k0
        c1 = product1 and LOW
        c2 = (product0 ushr 32) xor c3 xor k1
        c3 = product0 and LOW
        k0 = (k0 + KEY_STEP0) and LOW
        k1 = (k1 + KEY_STEP1) and LOW
    }
    return longArrayOf(c0, c1, c2, c3)
}

/** The four words of [block]; key and counter are split into (low, high) 32-bit halves. */
public fun rawWords(seed: ULong, block: Long): LongArray {
    val key = longArrayOf(seed.toLong() and LOW, seed.toLong() ushr 32)
    return philox4x32(longArrayOf(block and LOW, block ushr 32, 0, 0), key)
}

/** Standard normal noise of [shape], from element [offset] of the sequence of [seed] on. */
public fun standardNormal(seed: ULong, shape: List<Int>, offset: Long = 0): Floats {
    if (offset < 0 || shape.any { it < 0 }) throw SpecError("shape $shape and offset $offset must not be negative")
    val result = Floats(shape)
    var normals = DoubleArray(4)
    var current = -1L
    for (index in result.data.indices) {
        val block = (offset + index) / 4
        if (block != current) {
            normals = blockNormals(rawWords(seed, block))
            current = block
        }
        result.data[index] = normals[((offset + index) % 4).toInt()].toFloat()
    }
    return result
}

private fun blockNormals(words: LongArray): DoubleArray {
    val uniform = DoubleArray(4) { (words[it] + 0.5) / 4294967296.0 }
    val normals = DoubleArray(4)
    for (pair in 0..1) {
        val radius = sqrt(-2.0 * ln(uniform[2 * pair]))
        val angle = 2.0 * PI * uniform[2 * pair + 1]
        normals[2 * pair] = radius * cos(angle)
        normals[2 * pair + 1] = radius * sin(angle)
    }
    return normals
}
