package io.microforge.runtime.images

import io.microforge.runtime.Pixels
import io.microforge.runtime.SpecError
import io.microforge.runtime.bundle.JsonValue
import io.microforge.runtime.bundle.Size
import io.microforge.runtime.bundle.SourceEntry
import io.microforge.runtime.goldenJson
import io.microforge.runtime.items
import io.microforge.runtime.text
import io.microforge.runtime.toPixels
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.util.Base64
import kotlin.math.abs
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class SourceRequestTest {
    private fun image(value: JsonElement): Pixels {
        val (height, width, channels) = value.items("shape").map { it.jsonPrimitive.int }
        return Pixels(height, width, channels, Base64.getDecoder().decode(value.text("base64")))
    }

    private fun difference(first: Pixels, second: Pixels): Int {
        assertEquals(listOf(first.height, first.width, first.channels), listOf(second.height, second.width, second.channels))
        return first.data.indices.maxOf { abs((first.data[it].toInt() and 0xFF) - (second.data[it].toInt() and 0xFF)) }
    }

    @Test
    fun `images go on the canvas and back as in Python`() {
        for (case in goldenJson("images.json.gz").items("cases")) {
            val name = case.text("name")
            val values = case.jsonObject
            val entry = SourceEntry.read(JsonValue(values.getValue("entry"), "entry"))
            val mask = values.getValue("mask").takeUnless { it is JsonNull }?.let { value ->
                image(value).let { Mask(it.height, it.width, BooleanArray(it.data.size) { place -> it.data[place] != 0.toByte() }) }
            }
            val source = SourceImage.of(image(values.getValue("source")))
            val request = sourceRequest("task", entry, source, mask, null, values.getValue("composite").jsonPrimitive.boolean)
            val (height, width) = case.items("canvas").map { it.jsonPrimitive.int }
            val canvas = Size(height, width)
            val parts = split(request, canvas)
            val tiles = case.items("tiles")
            assertEquals(tiles.map { tile -> tile.items("tile").map { it.jsonPrimitive.int } }, parts.map { listOf(it.top, it.left, it.height, it.width) })
            val generated = parts.zip(tiles) { tile, golden ->
                val inputs = toCanvas(request, canvas, tile)
                assertEquals(0, difference(image(golden.jsonObject.getValue("canvas")), toPixels(inputs.source)), "$name: canvas")
                val canvasMask = golden.jsonObject.getValue("canvas_mask")
                if (canvasMask !is JsonNull) {
                    val levels = checkNotNull(inputs.mask).data.map { (it * 255).toInt().toByte() }
                    assertEquals(image(canvasMask).data.toList(), levels, "$name: mask")
                }
                Triple(tile, inputs, image(golden.jsonObject.getValue("generated")))
            }
            val result = if (request.enlarges) assembleEnlargement(request, generated) else fromCanvas(request, generated[0].second, generated[0].third)
            val allowed = if (request.enlarges) 1 else 0
            assertTrue(difference(image(values.getValue("result")), result) <= allowed, "$name: result")
        }
    }

    @Test
    fun `a size is chosen that leaves least of the canvas unused, or that holds the enlarged source`() {
        val sizes = listOf(Size(256, 256), Size(256, 384), Size(512, 512))
        assertEquals(Size(512, 512), bestCanvas(Size(100, 100), sizes))
        assertEquals(Size(256, 384), bestCanvas(Size(100, 160), sizes))
        assertEquals(Place(Size(100, 50), Size(64, 64), Size(64, 32), 0, 16), fitted(Size(100, 50), Size(64, 64)))
    }

    @Test
    fun `a source that takes too many tiles is refused with what to do`() {
        val error = assertFailsWith<SpecError> { tiles(Size(4000, 4000), Size(64, 64)) }
        assertTrue("at most 256 are allowed: shrink the source" in error.message.orEmpty())
    }
}
