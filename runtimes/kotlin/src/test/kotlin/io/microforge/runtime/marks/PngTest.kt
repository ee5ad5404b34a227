package io.microforge.runtime.marks

import io.microforge.runtime.DataError
import io.microforge.runtime.Pixels
import java.io.ByteArrayInputStream
import javax.imageio.ImageIO
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

class PngTest {
    private val pixels = Pixels(5, 7, 3, ByteArray(105) { (it * 37).toByte() })
    private val settings = Settings(
        "edit", "a \"red\" <circle> & \u7ea2\ud83d\ude00", 18446744073709551615u, 4, 256, 384, "0123456789ab", "onnx", threads = 2, strength = 0.5,
    )

    @Test
    fun `a PNG holds exactly the pixels, with and without alpha`() {
        for (channels in 3..4) {
            val own = Pixels(5, 7, channels, ByteArray(35 * channels) { (it * 37).toByte() })
            val decoded = ImageIO.read(ByteArrayInputStream(encodePng(own, SourceType.TRAINED_ALGORITHMIC_MEDIA)))
            val levels = (0 until 35).flatMap { place ->
                val argb = decoded.getRGB(place % 7, place / 7)
                listOf(argb shr 16, argb shr 8, argb, argb ushr 24).take(channels).map(Int::toByte)
            }
            assertContentEquals(own.data, levels.toByteArray())
        }
    }

    @Test
    fun `settings are read back from the image, and without them only the mark is there`() {
        val marked = encodePng(pixels, SourceType.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA, settings)
        assertEquals(settings, readPngSettings(marked))
        assertContains(String(marked, Charsets.ISO_8859_1), "digitalsourcetype/compositeWithTrainedAlgorithmicMedia<")
        val private = encodePng(pixels, SourceType.TRAINED_ALGORITHMIC_MEDIA)
        assertNull(readPngSettings(private))
        assertContains(String(private, Charsets.ISO_8859_1), "digitalsourcetype/trainedAlgorithmicMedia<")
    }

    @Test
    fun `settings are the text that Python writes`() {
        assertEquals(
            "{\"version\": 1, \"task\": \"edit\", \"prompt\": \"a \\\"red\\\" <circle> & \\u7ea2\\ud83d\\ude00\", " +
                "\"seed\": 18446744073709551615, \"steps\": 4, \"height\": 256, \"width\": 384, \"bundle\": \"0123456789ab\", " +
                "\"target\": \"onnx\", \"threads\": 2, \"composite\": false, \"strength\": 0.5}",
            settings.text(),
        )
    }

    @Test
    fun `what is no PNG, or has settings of another version, is one line`() {
        assertContains(assertFailsWith<DataError> { readPngSettings(byteArrayOf(1, 2)) }.message.orEmpty(), "is no PNG image")
        val whole = encodePng(pixels, SourceType.TRAINED_ALGORITHMIC_MEDIA, settings)
        assertFailsWith<DataError> { readPngSettings(whole.copyOf(60)) }
        for (text in listOf("", "[]", "{}", "{\"version\": 2}", settings.text().replace("\"steps\": 4", "\"steps\": \"4\""))) {
            assertContains(assertFailsWith<DataError> { Settings.parse(text) }.message.orEmpty(), "cannot use")
        }
    }
}
