package io.microforge.runtime.tokenizer

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** Most steps of one part, and times that they may lengthen a text together. */
private const val MAX_STEPS = 32
private const val MAX_GROWTH = 64.0

/** Longest pattern or replacement in characters. */
private const val MAX_PATTERN = 2048

/** Keys of the steps of a sequence. */
private val LISTS = listOf("normalizers", "pretokenizers")

/**
 * Refuse the [values] of a stranger's `tokenizer.json` that could make a text grow out of proportion.
 *
 * @throws IllegalArgumentException one line.
 */
internal fun checkLimits(values: JsonObject) {
    var growth = 1.0
    for (part in listOf("normalizer", "pre_tokenizer")) {
        val steps = steps(values[part])
        require(steps.size <= MAX_STEPS) { "it has ${steps.size} steps in its $part; at most $MAX_STEPS are allowed" }
        for (step in steps) growth *= growth(step)
    }
    require(growth <= MAX_GROWTH) { "it could make a text $growth times longer; at most $MAX_GROWTH times are allowed" }
}

/** Every step of a part, those of sequences one by one. */
private fun steps(value: JsonElement?): List<JsonObject> {
    val entry = value as? JsonObject ?: return emptyList()
    val inner = LISTS.mapNotNull { entry[it] as? JsonArray }
    return if (inner.isEmpty()) listOf(entry) else inner.flatten().flatMap(::steps)
}

/** How many times longer a step makes a text at most. */
private fun growth(step: JsonObject): Double {
    val pattern = (step["pattern"] as? JsonObject)?.mapValues { (it.value as? JsonPrimitive)?.content.orEmpty() }.orEmpty()
    val content = (step["content"] as? JsonPrimitive)?.content.orEmpty()
    require((pattern.values + content).all { it.length <= MAX_PATTERN }) { "it has a pattern or replacement of more than $MAX_PATTERN characters" }
    require(pattern.values.none { it.isEmpty() }) { "it has an empty pattern" }
    val isReplacement = (step["type"] as? JsonPrimitive)?.content == "Replace"
    val shortest = pattern["String"]?.length ?: 1
    return if (isReplacement) maxOf(1.0, Math.ceil(content.length.toDouble() / shortest)) else 1.0
}
