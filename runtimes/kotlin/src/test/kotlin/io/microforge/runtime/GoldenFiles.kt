package io.microforge.runtime

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.file.Files
import java.nio.file.Path
import java.util.zip.GZIPInputStream

/** The folder conformance/ of the repository. */
val CONFORMANCE: Path = Path.of(System.getProperty("microforge.conformance"))

/** The bundles to test with; none are given where the model was not built. */
val BUNDLES: List<Path> = System.getProperty("microforge.bundles").orEmpty().split(",").filter { it.isNotBlank() }.map { Path.of(it.trim()) }

/** Text of a golden file, decompressed where its name ends in `.gz`. */
fun goldenText(name: String): String {
    val stream = Files.newInputStream(CONFORMANCE.resolve(name))
    return (if (name.endsWith(".gz")) GZIPInputStream(stream) else stream).use { String(it.readBytes(), Charsets.UTF_8) }
}

fun goldenJson(name: String): JsonObject = Json.parseToJsonElement(goldenText(name)).jsonObject

fun JsonElement.text(key: String): String = jsonObject.getValue(key).jsonPrimitive.content

fun JsonElement.items(key: String): JsonArray = jsonObject.getValue(key).jsonArray

/** float32 numbers in any shape, here one row. */
fun JsonElement.floats(): Floats? {
    if (this is JsonNull) return null
    val values = jsonArray.map { it.jsonPrimitive.double.toFloat() }
    return Floats(listOf(values.size), values.toFloatArray())
}

/** Numbers of an array as strings of their bits, so that failures are readable and NaN is not special. */
fun bits(values: FloatArray): List<String> = values.map { "%08x".format(it.toRawBits()) }

/** All tensors of a safetensors file. */
fun readSafetensors(path: Path): Map<String, Tensor> {
    val buffer = ByteBuffer.wrap(Files.readAllBytes(path)).order(ByteOrder.LITTLE_ENDIAN)
    val length = buffer.getLong().toInt()
    val header = ByteArray(length).also(buffer::get)
    val entries = Json.parseToJsonElement(String(header, Charsets.UTF_8)).jsonObject
    return entries.filterKeys { it != "__metadata__" }.mapValues { (_, entry) ->
        val shape = entry.items("shape").map { it.jsonPrimitive.int }
        val (start, end) = entry.items("data_offsets").map { it.jsonPrimitive.long.toInt() }
        val data = ByteBuffer.wrap(buffer.array(), 8 + length + start, end - start).slice().order(ByteOrder.LITTLE_ENDIAN)
        when (val type = entry.text("dtype")) {
            "F32" -> Floats(shape, FloatArray((end - start) / 4) { data.getFloat(4 * it) })
            "I64" -> Integers(shape, LongArray((end - start) / 8) { data.getLong(8 * it) })
            "I32" -> Integers(shape, LongArray((end - start) / 4) { data.getInt(4 * it).toLong() })
            else -> error("a tensor of type $type")
        }
    }
}
