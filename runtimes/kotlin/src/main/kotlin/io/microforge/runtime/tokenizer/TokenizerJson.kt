package io.microforge.runtime.tokenizer

import io.microforge.runtime.BundleError
import io.microforge.runtime.bundle.jsonTree
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.util.regex.PatternSyntaxException

/**
 * A Hugging Face `tokenizer.json` with a byte-level BPE model: text to ids, without special tokens.
 *
 * The parts that such files have are read: the normalizers NFC, NFD, NFKC, NFKD, Lowercase, Strip and Replace, the
 * pre-tokenizers ByteLevel and Split, and added tokens. Anything else is refused when the file is read.
 */
public class TokenizerJson private constructor(
    private val normalize: (String) -> String,
    private val split: (List<String>) -> Sequence<String>,
    private val model: BytePairEncoding,
    private val added: AddedTokens,
) {
    /** The ids of [text]. */
    public fun ids(text: String): LongArray = firstIds(text, Int.MAX_VALUE)

    /** At least the first [count] ids of [text], or all; a long text is not tokenized to its end. */
    public fun firstIds(text: String, count: Int): LongArray {
        try {
            return encoded(text, count)
        } catch (error: StackOverflowError) {
            // of a pattern that goes down by recursion
            throw BundleError("this tokenizer cannot encode the text: its pattern is too deep", error)
        }
    }

    private fun encoded(text: String, count: Int): LongArray {
        val ids = mutableListOf<Int>()
        for (piece in added.pieces(text, normalize)) {
            if (piece.id != null) {
                ids += piece.id
            } else {
                for (word in split(listOf(piece.text))) {
                    model.encode(word, ids)
                    if (ids.size >= count) break
                }
            }
            if (ids.size >= count) break
        }
        return LongArray(ids.size) { ids[it].toLong() }
    }

    public companion object {
        /**
         * Read the text of a `tokenizer.json`; [where] names the file in messages.
         *
         * @throws BundleError when it is none, or has a part that this library does not know.
         */
        public fun parse(text: String, where: String = "tokenizer.json"): TokenizerJson = try {
            val values = jsonTree(text).jsonObject
            checkLimits(values)
            val model = values.getValue("model").jsonObject
            val normalize = normalizer(values["normalizer"])
            TokenizerJson(
                normalize, preTokenizer(values["pre_tokenizer"]), BytePairEncoding.read(model),
                AddedTokens.read(values["added_tokens"]?.jsonArray ?: JsonArray(emptyList()), normalize),
            )
        } catch (error: IllegalArgumentException) {
            throw BundleError("$where is not a tokenizer.json that this version reads: ${error.message?.lines()?.first()?.take(200)}", error)
        } catch (error: NoSuchElementException) {
            throw BundleError("$where is not a tokenizer.json: ${error.message}", error)
        }

        private fun normalizer(value: JsonElement?): (String) -> String {
            if (value == null || value is JsonNull) return { it }
            val entry = value.jsonObject
            return when (val type = entry.kind()) {
                "Sequence" -> {
                    val steps = entry.getValue("normalizers").jsonArray.map(::normalizer)
                    ({ text -> steps.fold(text) { result, step -> step(result) } })
                }
                "NFC", "NFD", "NFKC", "NFKD" -> unicodeForm(type)
                "Lowercase" -> ::lowercase
                "Strip" -> strip(entry.flag("strip_left", true), entry.flag("strip_right", true))
                "Replace" -> {
                    val pattern = pattern(entry.getValue("pattern").jsonObject)
                    val content = entry.getValue("content").jsonPrimitive.content
                    ({ text -> pattern.replace(text) { content } })
                }
                else -> throw IllegalArgumentException("the normalizer $type is unknown")
            }
        }

        private fun preTokenizer(value: JsonElement?): (List<String>) -> Sequence<String> {
            if (value == null || value is JsonNull) throw IllegalArgumentException("it has no pre-tokenizer; needed: ByteLevel")
            val entry = value.jsonObject
            return when (val type = entry.kind()) {
                "Sequence" -> {
                    val steps = entry.getValue("pretokenizers").jsonArray.map(::preTokenizer)
                    ({ texts -> steps.fold(texts.asSequence()) { result, step -> result.flatMap { step(listOf(it)) } } })
                }
                "ByteLevel" -> byteLevel(entry.flag("add_prefix_space", true), entry.flag("use_regex", true))
                "Split" -> split(entry)
                else -> throw IllegalArgumentException("the pre-tokenizer $type is unknown")
            }
        }

        private fun split(entry: JsonObject): (List<String>) -> Sequence<String> {
            val pattern = pattern(entry.getValue("pattern").jsonObject)
            val behavior = entry.getValue("behavior").jsonPrimitive.content
            require(behavior == "Removed" || behavior == "Isolated") { "the split behavior $behavior is unknown" }
            val keepsMatches = behavior == "Isolated" || entry.flag("invert", false)
            val keepsOthers = behavior == "Isolated" || !entry.flag("invert", false)
            return { texts -> texts.asSequence().flatMap { cut(it, pattern, keepsMatches, keepsOthers) } }
        }

        private fun pattern(value: JsonObject): Regex {
            val text = value["String"]?.jsonPrimitive?.content
            if (text != null) return Regex(Regex.escape(text))
            val source = value.getValue("Regex").jsonPrimitive.content
            return try {
                unicodeRegex(source)
            } catch (error: PatternSyntaxException) {
                throw IllegalArgumentException("the pattern $source is not understood", error)
            }
        }
    }
}

/** Text to split, or the id of an added token that the text spells. */
internal class Piece(val text: String, val id: Int?)

/** Tokens that text may spell: they are found before anything else is done, or in the normalized text. */
internal class AddedTokens(private val raw: Map<String, Int>, private val normalized: Map<String, Int>) {
    private val rawPattern = alternatives(raw.keys)
    private val normalizedPattern = alternatives(normalized.keys)

    /** Parts of [text] in order, those that are no token normalized. */
    fun pieces(text: String, normalize: (String) -> String): Sequence<Piece> = found(text, rawPattern, raw).flatMap { piece ->
        if (piece.id != null) sequenceOf(piece) else found(normalize(piece.text), normalizedPattern, normalized)
    }

    private fun found(text: String, pattern: Regex?, ids: Map<String, Int>): Sequence<Piece> {
        if (pattern == null) return if (text.isEmpty()) emptySequence() else sequenceOf(Piece(text, null))
        return cut(text, pattern, keepsMatches = true, keepsOthers = true).map { Piece(it, ids[it]) }
    }

    companion object {
        fun read(entries: JsonArray, normalize: (String) -> String): AddedTokens {
            val raw = mutableMapOf<String, Int>()
            val normalized = mutableMapOf<String, Int>()
            for (element in entries) {
                val entry = element.jsonObject
                for (flag in listOf("single_word", "lstrip", "rstrip")) {
                    require(!entry.flag(flag, false)) { "an added token with $flag is not understood" }
                }
                val content = entry.getValue("content").jsonPrimitive.content
                val id = entry.getValue("id").jsonPrimitive.int
                if (entry.flag("normalized", false)) normalized[normalize(content)] = id else raw[content] = id
            }
            return AddedTokens(raw, normalized)
        }

        private fun alternatives(contents: Set<String>): Regex? {
            val longestFirst = contents.filter { it.isNotEmpty() }.sortedByDescending { it.length }
            return if (longestFirst.isEmpty()) null else Regex(longestFirst.joinToString("|") { Regex.escape(it) })
        }
    }
}

/** Parts of [text] between and at the matches of [pattern], without empty ones. */
internal fun cut(text: String, pattern: Regex, keepsMatches: Boolean, keepsOthers: Boolean): Sequence<String> = sequence {
    var end = 0
    for (match in pattern.findAll(text)) {
        if (keepsOthers && match.range.first > end) yield(text.substring(end, match.range.first))
        if (keepsMatches && match.value.isNotEmpty()) yield(match.value)
        end = match.range.last + 1
    }
    if (keepsOthers && end < text.length) yield(text.substring(end))
}

internal fun JsonObject.kind(): String = getValue("type").jsonPrimitive.content

internal fun JsonObject.flag(name: String, default: Boolean): Boolean {
    val value = get(name) ?: return default
    return if (value is JsonPrimitive && value !is JsonNull) value.boolean else default
}
