package io.microforge.runtime

import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonPrimitive
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class NoiseTest {
    private val golden = goldenJson("noise.json")

    private fun words(text: String) = text.chunked(8).map { it.toLong(16) }.toLongArray()

    @Test
    fun `philox gives the known answers of Random123`() {
        for (case in golden.items("philox")) {
            assertEquals(words(case.text("words")).toList(), philox4x32(words(case.text("counter")), words(case.text("key"))).toList())
        }
    }

    @Test
    fun `golden vectors replay bit by bit`() {
        for (case in golden.items("cases")) {
            val seed = case.text("seed").toULong()
            val first = case.text("first_block").toLong()
            case.items("words").forEachIndexed { index, row ->
                assertEquals(words(row.jsonPrimitive.content).toList(), rawWords(seed, first + index).toList())
            }
            val normals = standardNormal(seed, listOf(case.text("count").toInt()), case.text("offset").toLong())
            assertEquals(case.items("float32_bits").map { it.jsonPrimitive.content }, bits(normals.data), "seed $seed")
        }
    }

    @Test
    fun `a latent is filled in channel row column order`() {
        val latent = golden.getValue("latent")
        val noise = standardNormal(latent.text("seed").toULong(), latent.items("shape").map { it.jsonPrimitive.int })
        assertEquals(latent.items("float32_bits").map { it.jsonPrimitive.content }, bits(noise.data))
    }

    @Test
    fun `negative offsets are refused`() {
        assertFailsWith<SpecError> { standardNormal(0u, listOf(4), -1) }
    }
}
