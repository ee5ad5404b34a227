package io.microforge.runtime

import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.FileEntry
import io.microforge.runtime.bundle.MANIFEST
import io.microforge.runtime.bundle.hex
import io.microforge.runtime.bundle.loadBundle
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.nio.file.Files
import java.nio.file.Path
import java.security.MessageDigest

/** A bundle on disk with the manifest of the golden files: its graphs are a few bytes of text, its tokenizer is real. */
fun writeExampleBundle(folder: Path, salt: String = ""): Bundle {
    val line = goldenText("manifests.jsonl.gz").lineSequence().map { Json.parseToJsonElement(it).jsonObject }
        .first { it.getValue("accepted").jsonPrimitive.boolean }
    val sizes = mutableMapOf<String, Long>()

    fun filled(value: JsonElement): JsonElement = when (value) {
        is JsonArray -> JsonArray(value.map(::filled))
        is JsonObject -> if ("sha256" in value) {
            entry(folder, value.text("path"), salt).also { sizes[value.text("path")] = it.bytes }.json()
        } else {
            JsonObject(value.mapValues { filled(it.value) })
        }
        else -> value
    }
    var manifest = filled(Json.parseToJsonElement(line.text("manifest"))).jsonObject
    val target = manifest.getValue("targets").jsonObject.getValue("onnx").jsonObject
    val fetched = sizes.filterKeys { !it.startsWith("golden") }.values.sum()
    val onnx = JsonObject(target + ("bytes" to JsonPrimitive(fetched)))
    manifest = JsonObject(manifest + mapOf("bytes" to JsonPrimitive(sizes.values.sum()), "targets" to JsonObject(mapOf("onnx" to onnx))))
    Files.writeString(folder.resolve(MANIFEST), "$manifest\n")
    return loadBundle(folder)
}

private fun entry(folder: Path, path: String, salt: String): FileEntry {
    val file = folder.resolve(path)
    Files.createDirectories(file.parent)
    val text = if (path == "tokenizer.json") goldenText("tokenizers/clip.json.gz") else "contents of $path$salt"
    Files.writeString(file, text)
    val data = text.toByteArray()
    return FileEntry(path, hex(MessageDigest.getInstance("SHA-256").digest(data)), data.size.toLong())
}

private fun FileEntry.json() =
    JsonObject(mapOf("path" to JsonPrimitive(path), "sha256" to JsonPrimitive(sha256), "bytes" to JsonPrimitive(bytes)))
