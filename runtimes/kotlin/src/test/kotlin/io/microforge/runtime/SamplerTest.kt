package io.microforge.runtime

import io.microforge.runtime.bundle.JsonValue
import io.microforge.runtime.bundle.SamplerTable
import kotlinx.serialization.json.jsonObject
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

class SamplerTest {
    @Test
    fun `every sampler table of the golden file replays bit by bit`() {
        for (case in goldenJson("samplers.json").items("cases")) {
            val table = SamplerTable.read(JsonValue(case.jsonObject.getValue("table"), "table"))
            val noise = case.items("noise").map { it.floats() }
            val outputs = case.items("outputs").map { checkNotNull(it.floats()) }
            val inputs = case.items("inputs").map { checkNotNull(it.floats()) }
            val steps = mutableListOf<Step>()
            val waiting = outputs.iterator()
            val first = checkNotNull(noise[0])
            val start = if (table.first == 1.0) first else weightedSum(listOf(table.first to first))
            assertEquals(bits(inputs[0].data), bits(start.data))
            val final = sample(table, { _, _ -> waiting.next() to emptyMap() }, start, { checkNotNull(noise[it]) }, callback = { steps += it })
            for ((index, step) in steps.withIndex()) {
                assertEquals(bits(inputs[index + 1].data), bits(step.latent.data), "${case.text("name")} row $index")
                val clean = case.items("clean")[index].floats()
                if (clean != null) assertEquals(bits(clean.data), bits(step.clean().data), "${case.text("name")} row $index")
            }
            assertEquals(bits(inputs.last().data), bits(final.data))
        }
    }

    @Test
    fun `a strength starts at the nearest row that has a level`() {
        val case = goldenJson("samplers.json").items("cases").first { it.text("name") == "student" }
        val table = SamplerTable.read(JsonValue(case.jsonObject.getValue("table"), "table"))
        assertEquals(listOf(0, 2, 3), listOf(1.0, 0.5, 0.01).map { chooseTable(listOf(table), null, it).second })
        assertEquals(0, chooseTable(listOf(table), 4, null).second)
        assertFailsWith<BundleError> { chooseTable(listOf(table), 5, null) }.also { assertEquals("steps is 5; this bundle allows: 4", it.message) }
    }

    @Test
    fun `pixels are rounded to the even number and broken values are refused`() {
        val levels = floatArrayOf(0.5f / 255f, 1.5f / 255f, -1f, 2f, 0.25f, 1f)
        val pixels = toPixels(Floats(listOf(1, 3, 1, 2), levels))
        val row = (0..1).flatMap { column -> (0..2).map { channel -> pixels[0, column, channel] } }
        assertEquals(listOf(0, 0, 64, 2, 255, 255), row)
        assertFailsWith<GenerationError> { toPixels(Floats(listOf(1, 3, 1, 1), floatArrayOf(0f, Float.NaN, 0f))) }
        assertNull(Step(1, 1, 0.0, pixelsFloats(), pixelsFloats(), pixelsFloats(), emptyMap(), null, null).preview())
    }

    private fun pixelsFloats() = Floats(listOf(1, 3, 1, 1))
}
