package io.microforge.runtime

import io.microforge.runtime.bundle.EdgeSide
import io.microforge.runtime.bundle.FileEntry
import io.microforge.runtime.bundle.Tokenizer
import io.microforge.runtime.tokenizer.TokenizerJson
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import java.nio.file.Files
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class TokenizerTest {
    @Test
    fun `all ids of 10,000 strings are Python's for every kind of tokenizer`() {
        for ((name, entry) in goldenJson("index.json").getValue("tokenizers").jsonObject) {
            val tokenizer = TokenizerJson.parse(goldenText(entry.text("tokenizer")))
            val lines = goldenText(entry.text("strings")).trimEnd('\n').split('\n')
            assertEquals(10_000, lines.size)
            val wrong = lines.map { Json.parseToJsonElement(it) }.filter { line ->
                tokenizer.ids(line.text("text")).toList() != line.items("ids").map { it.jsonPrimitive.long }
            }
            val shown = wrong.take(5).joinToString { line ->
                "${line.jsonObject["text"]} gives ${tokenizer.ids(line.text("text")).toList()}, not ${line.items("ids")}"
            }
            assertTrue(wrong.isEmpty(), "$name: ${wrong.size} differ: $shown")
        }
    }

    @Test
    fun `the beginning of a very long text is enough, and no word is slow`() {
        val tokenizer = TokenizerJson.parse(goldenText("tokenizers/microforge.json.gz"))
        val whole = tokenizer.ids("ab".repeat(20_000))
        assertEquals(whole.take(50), tokenizer.firstIds("ab".repeat(20_000), 50).take(50))
        assertTrue(tokenizer.firstIds("a red circle ".repeat(100_000), 60).size < 100)
    }

    @Test
    fun `a frame is cut and padded at the sides that it names, and lone surrogates are question marks`() {
        val path = Files.createTempFile("tokenizer", ".json")
        Files.writeString(path, goldenText("tokenizers/microforge.json.gz"))
        val entry = Tokenizer(
            FileEntry("tokenizer.json", "", 0), 6, mapOf("generate" to listOf(1L, 4L)), listOf(2L), 0, EdgeSide.LEFT, EdgeSide.LEFT, "a ",
        )
        val tokenizer = FramedTokenizer(entry, path)
        val plain = TokenizerJson.parse(goldenText("tokenizers/microforge.json.gz"))
        val short = tokenizer.encode("red", "generate")
        assertEquals(listOf(0L, 1L, 4L) + plain.ids("a red").toList() + 2L, short.ids.data.toList())
        assertEquals(listOf(0f, 1f, 1f, 1f, 1f, 1f), short.mask.data.toList())
        val long = tokenizer.encode("red blue green circle", "generate", user = false)
        assertEquals(plain.ids("red blue green circle").takeLast(3), long.ids.data.slice(2..4))
        assertTrue(long.truncated && !short.truncated)
        assertEquals(listOf(0L, 0L, 0L, 1L, 4L, 2L), tokenizer.encode(null, "generate").ids.data.toList())
        assertEquals("a?b\uD83D\uDE00?", cleanText("a\uD800b\uD83D\uDE00\uDC00"))
        assertTrue(tokenizer.isEmpty(" \n") && !tokenizer.isEmpty("x"))
        Files.delete(path)
    }

    @Test
    fun `a stranger's tokenizer cannot make a text grow without bound or end the process`() {
        val model = """"model":{"vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"ByteLevel"}"""
        val long = """{"type":"Replace","pattern":{"String":"a"},"content":"${"a".repeat(9)}"}"""
        val refused = mapOf(
            """{"type":"Sequence","normalizers":[$long,$long]}""" to "81.0 times longer",
            """{"type":"Sequence","normalizers":[${List(33) { """{"type":"NFC"}""" }.joinToString()}]}""" to "33 steps",
            """{"type":"Replace","pattern":{"Regex":""},"content":"a"}""" to "empty pattern",
            """{"type":"Replace","pattern":{"Regex":"${"a".repeat(3000)}"},"content":"a"}""" to "2048 characters",
            """{"type":"Replace","pattern":{"Regex":"("},"content":"a"}""" to "not understood",
        )
        for ((normalizer, message) in refused) {
            assertContains(assertFailsWith<BundleError> { TokenizerJson.parse("""{"normalizer":$normalizer,$model}""") }.message.orEmpty(), message)
        }
        val deep = TokenizerJson.parse("""{"normalizer":{"type":"Replace","pattern":{"Regex":"(a|b)*c"},"content":"a"},$model}""")
        assertContains(assertFailsWith<BundleError> { deep.ids("ab".repeat(100_000)) }.message.orEmpty(), "too deep")
    }

    @Test
    fun `what is no tokenizer, or one that is not understood, is one line`() {
        val texts = mapOf(
            "" to "is not a tokenizer.json", "[]" to "is not a tokenizer.json", "{}" to "is not a tokenizer.json",
            """{"model":{"type":"Unigram"},"pre_tokenizer":{"type":"ByteLevel"}}""" to "Unigram",
            """{"model":{"vocab":{},"merges":[]},"pre_tokenizer":{"type":"Metaspace"}}""" to "Metaspace",
            """{"model":{"vocab":{"a":0},"merges":[["a","b"]]},"pre_tokenizer":{"type":"ByteLevel"}}""" to "merge 0",
        )
        for ((text, message) in texts) {
            val error = assertFailsWith<BundleError> { TokenizerJson.parse(text) }
            assertContains(error.message.orEmpty(), message)
            assertTrue('\n' !in error.message.orEmpty())
        }
    }
}
