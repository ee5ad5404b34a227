package io.microforge.runtime.tokenizer

import java.text.Normalizer
import java.util.regex.Pattern

/** GPT-2's pattern, which the pre-tokenizer ByteLevel splits text with. */
private val GPT2 = unicodeRegex("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")

/** The one letter whose lower case has two characters, whatever stands around it. */
private const val CAPITAL_DOTTED_I = 0x130

/** The character that stands for each byte: printable ones for themselves, the others from U+0100 on. */
private val BYTE_CHARACTERS: CharArray = run {
    var next = 256
    CharArray(256) { byte ->
        val printable = byte in 33..126 || byte in 161..172 || byte in 174..255
        if (printable) byte.toChar() else (next++).toChar()
    }
}

/** Classes such as `\s` mean Unicode's; on Android they always do, and the flag has no effect there. */
internal fun unicodeRegex(source: String): Regex = Pattern.compile(source, Pattern.UNICODE_CHARACTER_CLASS).toRegex()

internal fun unicodeForm(name: String): (String) -> String {
    val form = Normalizer.Form.valueOf(name)
    return { Normalizer.normalize(it, form) }
}

/** Lower case character by character: without regard to a final sigma or the language of the device. */
internal fun lowercase(text: String): String {
    val result = StringBuilder(text.length)
    var at = 0
    while (at < text.length) {
        val code = text.codePointAt(at)
        at += Character.charCount(code)
        if (code == CAPITAL_DOTTED_I) result.append("i\u0307") else result.appendCodePoint(Character.toLowerCase(code))
    }
    return result.toString()
}

internal fun strip(left: Boolean, right: Boolean): (String) -> String = { text ->
    val start = if (left) text.indexOfFirst { !isWhiteSpace(it) } else 0
    when {
        start < 0 -> ""
        right -> text.substring(start, text.indexOfLast { !isWhiteSpace(it) } + 1)
        else -> text.substring(start)
    }
}

/** Unicode's property White_Space. */
private fun isWhiteSpace(char: Char): Boolean = when (char.code) {
    in 0x9..0xD, 0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
    else -> false
}

/** The pre-tokenizer ByteLevel: words of a text, each as characters that stand for its bytes. */
internal fun byteLevel(prefixSpace: Boolean, useRegex: Boolean): (List<String>) -> Sequence<String> = { texts ->
    texts.asSequence().flatMap { text ->
        val whole = if (prefixSpace && !text.startsWith(' ')) " $text" else text
        val words = if (useRegex) cut(whole, GPT2, keepsMatches = true, keepsOthers = true) else sequenceOf(whole)
        words.filter { it.isNotEmpty() }.map(::byteCharacters)
    }
}

private fun byteCharacters(word: String): String {
    val bytes = word.toByteArray(Charsets.UTF_8)
    return String(CharArray(bytes.size) { BYTE_CHARACTERS[bytes[it].toInt() and 0xFF] })
}
