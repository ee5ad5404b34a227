package io.microforge.runtime.marks

import io.microforge.runtime.DataError
import io.microforge.runtime.Result
import io.microforge.runtime.bundle.jsonTree
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.doubleOrNull
import kotlinx.serialization.json.intOrNull

/**
 * How one image was generated: enough to generate it again; null is what was not used. It travels inside the image as one line of
 * JSON, the same as the Python runtime writes.
 */
public data class Settings(
    public val task: String,
    public val prompt: String?,
    public val seed: ULong,
    public val steps: Int,
    public val height: Int,
    public val width: Int,
    public val bundle: String,
    public val target: String,
    public val threads: Int? = null,
    public val factor: Int? = null,
    public val composite: Boolean = false,
    public val strength: Double? = null,
    public val sourceSha256: String? = null,
    public val maskSha256: String? = null,
) {
    /** One line of ASCII JSON, without what is not used. */
    public fun text(): String {
        val values = listOf(
            "version" to "1", "task" to quoted(task), "prompt" to prompt?.let(::quoted), "seed" to "$seed", "steps" to "$steps",
            "height" to "$height", "width" to "$width", "bundle" to quoted(bundle), "target" to quoted(target),
            "threads" to threads?.toString(), "factor" to factor?.toString(), "composite" to "$composite",
            "strength" to strength?.toString(), "source_sha256" to sourceSha256?.let(::quoted), "mask_sha256" to maskSha256?.let(::quoted),
        )
        return values.filter { it.second != null }.joinToString(", ", "{", "}") { (key, value) -> "\"$key\": $value" }
    }

    public companion object {
        private const val MAX_CHARACTERS = 8 shl 20
        private val KEYS = setOf(
            "version", "task", "prompt", "seed", "steps", "height", "width", "bundle", "target", "threads", "factor", "composite",
            "strength", "source_sha256", "mask_sha256",
        )

        /** The settings of a [result] that the engine [target] made. */
        public fun of(result: Result, target: String, threads: Int? = null): Settings = Settings(
            result.task, result.prompt.ifEmpty { null }, result.seed, result.steps, result.height, result.width, result.bundleId, target,
            threads, strength = result.strength,
        )

        /**
         * Settings from their JSON [text].
         *
         * @throws DataError when they are damaged, or of a later version.
         */
        public fun parse(text: String): Settings {
            val values = try {
                require(text.length <= MAX_CHARACTERS) { "it is too long" }
                jsonTree(text) as? JsonObject ?: throw IllegalArgumentException("it is no object")
            } catch (error: IllegalArgumentException) {
                throw unusable(error.message?.lines()?.first().orEmpty())
            }
            val unknown = values.keys.firstOrNull { it !in KEYS }
            if (unknown != null) throw unusable("$unknown is unknown")

            fun item(key: String) = values[key] as? JsonPrimitive

            fun string(key: String) = item(key)?.takeIf { it.isString }?.content

            fun count(key: String) = item(key)?.takeUnless { it.isString }?.intOrNull

            fun <T : Any> needed(key: String, value: T?): T = value ?: throw unusable("$key is missing or no value of its kind")
            if (count("version") != 1) throw unusable("version is not 1")
            return Settings(
                needed("task", string("task")), string("prompt"),
                needed("seed", item("seed")?.takeUnless { it.isString }?.content?.toULongOrNull()), needed("steps", count("steps")),
                needed("height", count("height")), needed("width", count("width")), needed("bundle", string("bundle")),
                needed("target", string("target")), count("threads"), count("factor"), item("composite")?.booleanOrNull ?: false,
                item("strength")?.takeUnless { it.isString }?.doubleOrNull, string("source_sha256"), string("mask_sha256"),
            )
        }

        private fun unusable(reason: String) = DataError("has settings that this version cannot use ($reason); update the app")

        /** A JSON text in ASCII. */
        private fun quoted(text: String): String = buildString {
            append('"')
            for (char in text) {
                when (char) {
                    '"' -> append("\\\"")
                    '\\' -> append("\\\\")
                    '\n' -> append("\\n")
                    '\r' -> append("\\r")
                    '\t' -> append("\\t")
                    '\b' -> append("\\b")
                    '\u000C' -> append("\\f")
                    in ' '..'~' -> append(char)
                    else -> append("\\u%04x".format(java.util.Locale.ROOT, char.code))
                }
            }
            append('"')
        }
    }
}
