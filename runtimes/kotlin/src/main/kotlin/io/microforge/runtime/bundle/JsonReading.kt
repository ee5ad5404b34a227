package io.microforge.runtime.bundle

import io.microforge.runtime.BundleError
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

// kotlinx.serialization's generated decoders take "5" for 5; a manifest comes from anywhere, so its values are read from
// the tree of elements, each with its type and limits.

private val INTEGER = Regex("-?(0|[1-9][0-9]{0,18})")
private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
private const val SHOWN = 80
private const val MAX_DEPTH = 64

/**
 * The elements of the JSON [text]; the parser goes down by recursion, so deep nesting is refused before it.
 *
 * @throws IllegalArgumentException when it is no JSON.
 */
internal fun jsonTree(text: String): JsonElement {
    var depth = 0
    var inString = false
    var escaped = false
    for (char in text) {
        when {
            escaped -> escaped = false
            inString -> if (char == '\\') {
                escaped = true
            } else if (char == '"') {
                inString = false
            }
            char == '"' -> inString = true
            char == '[' || char == '{' -> require(++depth <= MAX_DEPTH) { "more than $MAX_DEPTH levels of nesting" }
            char == ']' || char == '}' -> depth--
        }
    }
    return Json.parseToJsonElement(text)
}

/** A value of a manifest and where it lies; every reader refuses another type than its own. */
internal class JsonValue(val element: JsonElement, private val path: String) {
    val isNull: Boolean get() = element is JsonNull

    fun fail(message: String): Nothing = throw BundleError(if (path.isEmpty()) message else "$path: $message")

    /** An object: [read] takes every key that it may have; any other key is refused. */
    fun <T> entry(read: Fields.() -> T): T {
        val fields = Fields(element as? JsonObject ?: fail("must be an object"), path)
        return fields.read().also { fields.refuseOthers() }
    }

    fun <T> list(counts: IntRange, read: (JsonValue) -> T): List<T> {
        val items = element as? JsonArray ?: fail("must be a list")
        if (items.size !in counts) fail("has ${items.size} items; allowed: ${counts.first} to ${counts.last}")
        return items.mapIndexed { index, item -> read(JsonValue(item, "$path.$index")) }
    }

    fun <T> map(most: Int, least: Int = 0, key: Regex? = null, keyLength: Int = 256, read: (JsonValue) -> T): Map<String, T> {
        val items = element as? JsonObject ?: fail("must be an object")
        if (items.size !in least..most) fail("has ${items.size} keys; allowed: $least to $most")
        return items.entries.associate { (name, item) ->
            val shown = oneLine(name).take(SHOWN)
            val place = JsonValue(item, if (path.isEmpty()) shown else "$path.$shown")
            if (name.length > keyLength || (key != null && !key.matches(name))) place.fail("this key is not allowed")
            name to read(place)
        }
    }

    fun text(most: Int, least: Int = 0, pattern: Regex? = null): String {
        val value = element as? JsonPrimitive
        if (value == null || !value.isString) fail("must be a text")
        val content = value.content
        val length = content.codePointCount(0, content.length)
        if (length !in least..most) fail("has $length characters; allowed: $least to $most")
        if (pattern != null && !pattern.matches(content)) fail("is ${quoted(content)}, which is not allowed here")
        return content
    }

    fun choice(vararg allowed: String): String = text(SHOWN).also {
        if (it !in allowed) fail("is ${quoted(it)}; allowed: ${allowed.joinToString()}")
    }

    fun long(range: LongRange): Long {
        val value = literal(INTEGER, "a whole number").toLongOrNull()
        if (value == null || value !in range) fail("must be a whole number from ${range.first} to ${range.last}")
        return value
    }

    fun int(range: IntRange): Int = long(range.first.toLong()..range.last.toLong()).toInt()

    fun number(low: Double, high: Double): Double {
        val value = literal(NUMBER, "a number").toDouble()
        if (value !in low..high) fail("is $value; allowed: $low to $high")
        return value
    }

    fun unsignedLong(): ULong = literal(Regex("0|[1-9][0-9]{0,19}"), "a seed").toULongOrNull() ?: fail("must be below 2^64")

    fun boolean(): Boolean = when (literal(Regex("true|false"), "true or false")) {
        "true" -> true
        else -> false
    }

    private fun literal(grammar: Regex, what: String): String {
        val value = element as? JsonPrimitive
        if (value == null || value.isString || !grammar.matches(value.content)) fail("must be $what")
        return value.content
    }

    /** Refuse literals that are no JSON, which the parser lets pass. */
    fun plain() {
        when (element) {
            is JsonObject -> element.forEach { (name, item) -> JsonValue(item, "$path.${oneLine(name).take(SHOWN)}").plain() }
            is JsonArray -> element.forEachIndexed { index, item -> JsonValue(item, "$path.$index").plain() }
            is JsonPrimitive -> {
                val known = element.isString || element.content in listOf("true", "false", "null") || NUMBER.matches(element.content)
                if (!known) fail("is no JSON value")
            }
        }
    }
}

/** The keys of one object. */
internal class Fields(private val values: JsonObject, private val path: String) {
    private val taken = mutableSetOf<String>()

    /** A key that must be there. */
    operator fun get(key: String): JsonValue =
        optional(key) ?: throw BundleError("the key ${place(key)} is missing")

    /** A key that may be absent. */
    fun optional(key: String): JsonValue? {
        taken += key
        return values[key]?.let { JsonValue(it, place(key)) }
    }

    /** A key that may be absent or null. */
    fun nullable(key: String): JsonValue? = optional(key)?.takeUnless { it.isNull }

    /** A key that must be there and may be null. */
    fun required(key: String): JsonValue? = get(key).takeUnless { it.isNull }

    fun refuseOthers() {
        val unknown = values.keys.firstOrNull { it !in taken } ?: return
        throw BundleError("unknown key ${place(oneLine(unknown).take(SHOWN))}; schema version 2 does not have it")
    }

    private fun place(key: String) = if (path.isEmpty()) key else "$path.$key"
}

internal fun quoted(text: String): String = "'${oneLine(text).take(SHOWN)}'"

/** [text] without line breaks and control characters. */
internal fun oneLine(text: String): String =
    text.map { if (it.isISOControl() || it.isSurrogate()) ' ' else it }.joinToString("").trim().replace(Regex("\\s+"), " ")
