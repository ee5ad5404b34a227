package io.microforge.runtime.bundle

import io.microforge.runtime.BundleError
import io.microforge.runtime.goldenText
import io.microforge.runtime.text
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue

class ManifestTest {
    private val cases = goldenText("manifests.jsonl.gz").trimEnd('\n').split('\n').map { Json.parseToJsonElement(it).jsonObject }
    private val example = parseManifest(cases.first { it.getValue("accepted").jsonPrimitive.boolean }.text("manifest").toByteArray())

    @Test
    fun `every manifest is accepted or refused as the golden file says`() {
        assertTrue(cases.size > 100)
        val accepted = mutableListOf<String>()
        for (case in cases) {
            val data = case["hex"]?.jsonPrimitive?.content?.chunked(2)?.map { it.toInt(16).toByte() }?.toByteArray()
                ?: case.text("manifest").toByteArray()
            if (case.getValue("accepted").jsonPrimitive.boolean) {
                parseManifest(data)
                continue
            }
            try {
                parseManifest(data, "m.mfb/manifest.json")
                accepted += case.text("name")
            } catch (error: BundleError) {
                val message = error.message.orEmpty()
                assertTrue(message.startsWith("m.mfb/manifest.json") && '\n' !in message && message.length < 500, message)
            }
        }
        assertEquals(emptyList(), accepted)
    }

    @Test
    fun `the message names the key that is wrong`() {
        for (case in cases.filter { !it.getValue("accepted").jsonPrimitive.boolean }) {
            val reason = case.text("reason")
            if (!Regex("[a-z]+(\\.[A-Za-z0-9]+)+").matches(reason)) continue
            val error = assertFailsWith<BundleError> { parseManifest(case.text("manifest").toByteArray()) }
            assertTrue(reason.substringBeforeLast(".") in error.message.orEmpty(), "${case.text("name")}: ${error.message}")
        }
    }

    @Test
    fun `a task is chosen by its inputs and says what it runs`() {
        assertEquals("generate", taskFor(example.tasks, image = false, mask = false))
        assertEquals("fill", taskFor(example.tasks, image = true, mask = true))
        assertNull(taskFor(example.tasks, image = true, mask = false))
        assertEquals(
            listOf(Stage("text", StageKind.PROMPT_ENCODER), Stage("denoise", StageKind.NETWORK), Stage("decode", StageKind.DECODER)),
            example.stages(),
        )
        assertEquals(listOf("text", "encode", "denoise", "decode"), example.stages("fill").map { it.role })
    }

    @Test
    fun `a manifest is refused at any length that is not its own`() {
        val data = cases.first().text("manifest").toByteArray()
        for (length in data.indices step 37) assertFailsWith<BundleError> { parseManifest(data.copyOf(length)) }
    }
}
