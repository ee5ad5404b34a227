package io.microforge.runtime.marks

import io.microforge.runtime.DataError
import io.microforge.runtime.Pixels
import java.io.ByteArrayOutputStream
import java.io.DataOutputStream
import java.nio.ByteBuffer
import java.util.zip.CRC32
import java.util.zip.DeflaterOutputStream

/** Name and version of this library in the images that it marks. */
public const val TOOL: String = "microforge 0.2.0"

private const val PNG_KEYWORD = "XML:com.adobe.xmp"
private val PNG_SIGNATURE = byteArrayOf(0x89.toByte(), 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A)
private const val CHUNK_OVERHEAD = 12

/**
 * A PNG file of [pixels] that says that a model made it, and with [settings] how; null leaves them out.
 *
 * The same pixels and marks give the same bytes on one system.
 */
public fun encodePng(pixels: Pixels, sourceType: SourceType, settings: Settings? = null): ByteArray {
    val marks = Marks(sourceType, settings?.text(), settings?.prompt, TOOL)
    val stream = ByteArrayOutputStream()
    stream.write(PNG_SIGNATURE)
    val header = ByteBuffer.allocate(13).putInt(pixels.width).putInt(pixels.height)
    header.put(8).put(if (pixels.channels == 4) 6 else 2)
    chunk(stream, "IHDR", header.array())
    chunk(stream, "iTXt", (PNG_KEYWORD + "\u0000\u0000\u0000\u0000\u0000" + xmpPacket(marks)).toByteArray(Charsets.UTF_8))
    for ((key, value) in texts(settings)) chunk(stream, if (isLatin1(value)) "tEXt" else "iTXt", textChunk(key, value))
    chunk(stream, "IDAT", compressedRows(pixels))
    chunk(stream, "IEND", ByteArray(0))
    return stream.toByteArray()
}

/**
 * The settings inside a PNG that [encodePng] or the Python runtime wrote; null where it has none.
 *
 * @throws DataError when [data] is no PNG, or its settings are damaged or of a later version.
 */
public fun readPngSettings(data: ByteArray): Settings? {
    val packet = internationalText(data, PNG_KEYWORD) ?: return null
    val settings = Regex("<microforge:settings>([^<]*)</microforge:settings>").find(packet) ?: return null
    val text = settings.groupValues[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
    return Settings.parse(text)
}

/** The main settings once more, which every viewer of PNG texts shows. */
private fun texts(settings: Settings?): List<Pair<String, String>> {
    val tool = listOf("Software" to TOOL)
    if (settings == null) return tool
    return tool + listOf(
        "prompt" to settings.prompt.orEmpty(), "seed" to "${settings.seed}", "task" to settings.task,
        "size" to "${settings.height}x${settings.width}", "steps" to "${settings.steps}", "bundle" to settings.bundle,
    )
}

private fun isLatin1(text: String) = text.all { it.code in 0x20..0x7E || it.code in 0xA1..0xFF || it == '\n' }

private fun textChunk(key: String, value: String): ByteArray =
    if (isLatin1(value)) {
        "$key\u0000$value".toByteArray(Charsets.ISO_8859_1)
    } else {
        ("$key\u0000\u0000\u0000\u0000\u0000" + value.replace('\u0000', ' ')).toByteArray(Charsets.UTF_8)
    }

private fun chunk(stream: ByteArrayOutputStream, type: String, data: ByteArray) {
    val name = type.toByteArray(Charsets.US_ASCII)
    val sum = CRC32().apply {
        update(name)
        update(data)
    }
    DataOutputStream(stream).run {
        writeInt(data.size)
        write(name)
        write(data)
        writeInt(sum.value.toInt())
    }
}

/** Each row as its difference to the pixel before (filter 1), which suits rendered images. */
private fun compressedRows(pixels: Pixels): ByteArray {
    val result = ByteArrayOutputStream()
    val stride = pixels.width * pixels.channels
    DeflaterOutputStream(result).use { stream ->
        val row = ByteArray(stride + 1)
        row[0] = 1
        for (y in 0 until pixels.height) {
            for (x in 0 until stride) {
                val before = if (x < pixels.channels) 0 else pixels.data[y * stride + x - pixels.channels].toInt()
                row[x + 1] = (pixels.data[y * stride + x] - before).toByte()
            }
            stream.write(row)
        }
    }
    return result.toByteArray()
}

/** The uncompressed text with [keyword] of an iTXt chunk. */
private fun internationalText(data: ByteArray, keyword: String): String? {
    if (data.size < PNG_SIGNATURE.size || !data.copyOf(PNG_SIGNATURE.size).contentEquals(PNG_SIGNATURE)) {
        throw DataError("is no PNG image, which can hold settings")
    }
    val buffer = ByteBuffer.wrap(data).position(PNG_SIGNATURE.size) as ByteBuffer
    while (buffer.remaining() >= CHUNK_OVERHEAD) {
        val length = buffer.getInt()
        val type = String(ByteArray(4).also(buffer::get), Charsets.ISO_8859_1)
        if (length < 0 || length > buffer.remaining() - 4) throw DataError("is a damaged PNG image")
        val content = ByteArray(length).also(buffer::get)
        buffer.getInt()
        if (type != "iTXt") continue
        val start = "$keyword\u0000\u0000".toByteArray(Charsets.ISO_8859_1)
        if (content.size < start.size + 3 || !content.copyOf(start.size).contentEquals(start)) continue
        var at = start.size + 1
        repeat(2) { at = content.indices.drop(at).firstOrNull { content[it] == 0.toByte() }?.plus(1) ?: return null }
        return String(content, at, content.size - at, Charsets.UTF_8)
    }
    return null
}
