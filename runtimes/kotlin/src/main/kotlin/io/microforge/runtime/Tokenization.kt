package io.microforge.runtime

import io.microforge.runtime.bundle.EdgeSide
import io.microforge.runtime.bundle.Tokenizer
import io.microforge.runtime.tokenizer.TokenizerJson
import java.io.IOException
import java.nio.charset.CharacterCodingException
import java.nio.file.Files
import java.nio.file.Path

/** An encoded prompt: [ids] and [mask] (1, L), which is 0 on padding; [truncated] if text was cut off. */
public class TokenIds(public val ids: Integers, public val mask: Floats, public val truncated: Boolean)

/** Encodes prompts as one of the manifest's `tokenizers` says. */
public class FramedTokenizer(private val entry: Tokenizer, path: Path) {
    private val tokenizer = TokenizerJson.parse(read(path), "$path")

    /** Whether [text] has no ids by itself. */
    public fun isEmpty(text: String): Boolean = tokenizer.firstIds(cleanText(text), 1).isEmpty()

    /** The framed ids of [text] for [task]; null is the empty prompt. [user]: whether it is the user's prompt. */
    public fun encode(text: String?, task: String, user: Boolean = true): TokenIds {
        val prefix = entry.prefix.getValue(task)
        val space = entry.length - prefix.size - entry.suffix.size
        val all = if (text == null) LongArray(0) else textIds(cleanText(if (user) entry.before + text else text), space)
        val kept = if (entry.truncation == EdgeSide.RIGHT) all.take(space) else all.takeLast(space)
        val row = prefix + kept + entry.suffix
        val start = if (entry.padding == EdgeSide.RIGHT) 0 else entry.length - row.size
        val ids = LongArray(entry.length) { entry.pad }
        val mask = FloatArray(entry.length)
        row.forEachIndexed { index, id ->
            ids[start + index] = id
            mask[start + index] = 1f
        }
        val shape = listOf(1, entry.length)
        return TokenIds(Integers(shape, ids), Floats(shape, mask), kept.size < all.size)
    }

    private fun textIds(text: String, space: Int): LongArray =
        if (entry.truncation == EdgeSide.RIGHT) tokenizer.firstIds(text, space + 1) else tokenizer.ids(text)
}

/** [text] without lone surrogates: each becomes a question mark. */
internal fun cleanText(text: String): String {
    val alone = { index: Int ->
        val char = text[index]
        (char.isHighSurrogate() && !(index + 1 < text.length && text[index + 1].isLowSurrogate())) ||
            (char.isLowSurrogate() && !(index > 0 && text[index - 1].isHighSurrogate()))
    }
    if (text.indices.none(alone)) return text
    return String(CharArray(text.length) { if (alone(it)) '?' else text[it] })
}

private fun read(path: Path): String = try {
    String(Files.readAllBytes(path), Charsets.UTF_8)
} catch (error: CharacterCodingException) {
    throw BundleError("$path is not a tokenizer.json", error)
} catch (error: IOException) {
    throw BundleError("$path cannot be read: ${error.message}", error)
}
