package io.microforge.runtime.tokenizer

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.util.PriorityQueue

/**
 * Byte-pair encoding of one word: neighbours merge by the rank of their pair, equal ranks from the left.
 *
 * A word of n characters takes n log n steps, so no text can make it slow.
 */
internal class BytePairEncoding(
    private val vocabulary: Map<String, Int>,
    private val merges: Map<Long, Merge>,
    private val wordEnd: String,
    private val unknown: Int?,
    private val ignoresMerges: Boolean,
) {
    /** Rank of a pair, and the token that it becomes. */
    class Merge(val rank: Int, val id: Int)

    private class Candidate(val rank: Int, val left: Int, val leftId: Int, val rightId: Int, val id: Int)

    /** Append the ids of [word], whose characters stand for bytes, to [ids]. */
    fun encode(word: String, ids: MutableList<Int>) {
        if (ignoresMerges) {
            vocabulary[word]?.let {
                ids += it
                return
            }
        }
        val tokens = characters(word)
        val count = tokens.size
        val next = IntArray(count) { it + 1 }
        val previous = IntArray(count) { it - 1 }
        val queue = PriorityQueue<Candidate>(compareBy<Candidate> { it.rank }.thenBy { it.left })
        for (left in 0 until count - 1) candidate(tokens, left, left + 1)?.let(queue::add)
        while (true) {
            val best = queue.poll() ?: break
            val right = next[best.left]
            if (tokens[best.left] != best.leftId || right >= count || tokens[right] != best.rightId) continue
            tokens[best.left] = best.id
            tokens[right] = GONE
            next[best.left] = next[right]
            if (next[right] < count) previous[next[right]] = best.left
            if (previous[best.left] >= 0) candidate(tokens, previous[best.left], best.left)?.let(queue::add)
            if (next[best.left] < count) candidate(tokens, best.left, next[best.left])?.let(queue::add)
        }
        var at = 0
        while (at < count) {
            ids += tokens[at]
            at = next[at]
        }
    }

    private fun candidate(tokens: IntArray, left: Int, right: Int): Candidate? {
        val merge = merges[pair(tokens[left], tokens[right])] ?: return null
        return Candidate(merge.rank, left, tokens[left], tokens[right], merge.id)
    }

    /** The ids of the single characters; those that the vocabulary lacks are unknown, or left out. */
    private fun characters(word: String): IntArray {
        val result = IntArray(word.length)
        var count = 0
        for (index in word.indices) {
            val character = if (index == word.lastIndex) word[index] + wordEnd else word[index].toString()
            val id = vocabulary[character] ?: unknown ?: continue
            result[count++] = id
        }
        return result.copyOf(count)
    }

    companion object {
        private const val GONE = -1

        private fun pair(left: Int, right: Int): Long = (left.toLong() shl 32) or (right.toLong() and 0xFFFFFFFFL)

        fun read(model: JsonObject): BytePairEncoding {
            val type = model["type"]?.jsonPrimitive?.content ?: "BPE"
            require(type == "BPE") { "the model $type is unknown; needed: BPE" }
            require(text(model["continuing_subword_prefix"]).isEmpty()) { "a continuing_subword_prefix is not understood" }
            require(!model.flag("byte_fallback", false)) { "byte_fallback is not understood" }
            require(model["dropout"] == null || model["dropout"] is JsonNull) { "dropout is not understood" }
            val vocabulary = model.getValue("vocab").jsonObject.mapValues { it.value.jsonPrimitive.int }
            require(vocabulary.isNotEmpty()) { "its vocabulary is empty" }
            val merges = HashMap<Long, Merge>()
            model.getValue("merges").jsonArray.forEachIndexed { rank, entry ->
                val (left, right) = sides(entry)
                val id = vocabulary[left + right]
                val leftId = vocabulary[left]
                val rightId = vocabulary[right]
                require(id != null && leftId != null && rightId != null) { "merge $rank is not in the vocabulary" }
                merges.putIfAbsent(pair(leftId, rightId), Merge(rank, id))
            }
            val unknown = text(model["unk_token"])
            return BytePairEncoding(
                vocabulary, merges, text(model["end_of_word_suffix"]), vocabulary[unknown].takeIf { unknown.isNotEmpty() },
                model.flag("ignore_merges", false),
            )
        }

        private fun text(value: JsonElement?): String = if (value == null || value is JsonNull) "" else value.jsonPrimitive.content

        /** A pair is a list of two, in older files one text with a space. */
        private fun sides(entry: JsonElement): List<String> {
            val sides = if (entry is JsonArray) entry.map { it.jsonPrimitive.content } else entry.jsonPrimitive.content.split(" ")
            require(sides.size == 2) { "a merge must have two sides" }
            return sides
        }
    }
}
