package io.microforge.runtime

import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.DType
import io.microforge.runtime.engines.Opener
import io.microforge.runtime.engines.Session
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Path
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** The loop without an engine: sessions that give simple numbers, on the manifest of the golden files. */
class GeneratorTest {
    @TempDir lateinit var work: Path
    private val bundle: Bundle by lazy { writeExampleBundle(work.resolve("example.mfb")) }
    private val calls = mutableListOf<Pair<String, Map<String, Tensor>>>()
    private val open = mutableListOf<String>()
    private var mostOpen = 0
    private var beforeRun: () -> Unit = {}

    /** Every output is a hundredth of the sum of all inputs, in every element. */
    private val opener = Opener { bundle, _, key, _ ->
        val component = bundle.manifest.components.getValue(key)
        open += component.role
        mostOpen = maxOf(mostOpen, open.size)
        object : Session {
            override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
                for (spec in component.inputs) {
                    val value = inputs.getValue(spec.name)
                    assertEquals(spec.shape, value.shape, spec.name)
                    assertEquals(spec.dtype == DType.INT64, value is Integers, spec.name)
                }
                beforeRun()
                calls += component.role to inputs
                val sum = inputs.values.sumOf { value -> if (value is Floats) value.data.sumOf { it.toDouble() } else 0.0 }
                return component.outputs.associate { spec -> spec.name to Floats(spec.shape).also { it.data.fill((sum / 100).toFloat()) } }
            }

            override fun close() {
                open -= component.role
            }
        }
    }

    private fun generator() = Generator(bundle, opener = opener)

    @Test
    fun `a flow is cold, gives every step and then the result, and holds one stage at a time`() = runBlocking<Unit> {
        generator().use { generator ->
            val flow = generator.flow(Request("a cat", seed = 3u))
            assertTrue(calls.isEmpty())
            val progress = flow.toList()
            assertEquals(listOf(1, 2), progress.filterIsInstance<Step>().map { it.index })
            val result = progress.last() as Result
            assertEquals(listOf("text", "text", "denoise", "denoise", "denoise", "denoise", "decode"), calls.map { it.first })
            assertEquals(bits(result.latent.data), bits((flow.toList().last() as Result).latent.data))
            assertEquals(bits(result.latent.data), bits(generator.run(Request("a cat", seed = 3u)).latent.data))
            val preview = checkNotNull((progress.first() as Step).preview())
            assertEquals(listOf(2, 3, 3), listOf(preview.height, preview.width, preview.channels))
        }
        assertEquals(1, mostOpen)
        assertEquals(emptyList(), open)
    }

    @Test
    fun `a cancelled flow stops before the next evaluation and frees its stage`() = runBlocking<Unit> {
        val gate = CountDownLatch(1)
        beforeRun = { if (calls.count { it.first == "denoise" } == 2) gate.await(20, TimeUnit.SECONDS) }
        generator().use { generator ->
            val received = CompletableDeferred<Step>()
            val job = launch(Dispatchers.Default) { generator.flow(Request("a cat")).collect { received.complete(it as Step) } }
            assertEquals(1, received.await().index)
            job.cancel()
            gate.countDown()
            job.join()
            assertEquals(listOf("text", "text", "denoise", "denoise", "denoise"), calls.map { it.first }, "the third was under way")
            assertEquals(emptyList(), open)
            generator.run(Request("a cat"))
        }
    }

    @Test
    fun `branches get their own prompts, conditions and state`() {
        generator().use { it.run(Request("a cat", negative = "blur", guidance = mapOf("text" to 2.0), parameters = mapOf("label" to 7.0))) }
        val texts = calls.filter { it.first == "text" }.map { (it.second.getValue("ids") as Integers).data.toList() }
        assertEquals(2, texts.distinct().size)
        val network = calls.filter { it.first == "denoise" }.map { it.second.mapValues { (_, value) -> (value as Floats).data } }
        assertEquals(listOf(0f, 0f, 1f, 1f), network.map { it.getValue("has_memory").single() })
        assertTrue(network[0].getValue("memory").all { it == 0f } && network[2].getValue("memory").all { it != 0f })
        assertEquals(listOf(512f, 0.5f, 0f), network[0].getValue("extra").slice(4..6))
        assertEquals(listOf(7f, 999f, 0.5f, 1f), listOf(network[0].getValue("label")[0], network[0].getValue("t")[0]) + network[0].getValue("scale").toList())
        assertTrue(network[0].getValue("region").all { it == 1f })
        calls.clear()
        generator().use { it.run(Request("a cat", guidance = mapOf("text" to 1.0))) }
        assertEquals(2, calls.count { it.first == "denoise" }, "a branch of weight 0 is left out")
    }

    @Test
    fun `pixels outside a mask are the image's own, bit for bit`() {
        val image = Floats(listOf(1, 3, 64, 96), standardNormal(1u, listOf(1, 3, 64, 96)).data.map { it.coerceIn(0f, 1f) }.toFloatArray())
        val mask = Floats(listOf(1, 1, 64, 96)).also { it.data[0] = 1f }
        val result = generator().use { it.run(Request(task = "fill", image = image, mask = mask, strength = 0.5)) }
        assertEquals(bits(image.data.copyOfRange(1, 6144)), bits(result.floatImage.data.copyOfRange(1, 6144)))
        assertTrue(image.data[0] != result.floatImage.data[0])
        val region = calls.first { it.first == "denoise" }.second.getValue("region") as Floats
        assertEquals(listOf(1f, 0f, 0f, 0f, 0f, 0f), region.data.toList())
    }

    @Test
    fun `what cannot be done is refused in one line before anything loads`() {
        val image = Floats(listOf(1, 3, 64, 96))
        val mask = Floats(listOf(1, 1, 64, 96)).also { it.data[0] = 1f }
        val refused = listOf(
            Request() to "generate needs a prompt", Request(" ") to "the prompt is empty", Request("x", task = "paint") to "its tasks: generate, fill",
            Request("x", steps = 9) to "steps is 9; this bundle allows: 2, 1", Request("x", image = image) to "generate takes no image",
            Request("x", strength = 0.5) to "strength does not belong to generate", Request("x", guidance = mapOf("text" to 21.0)) to "allowed: 0.0 to 20.0",
            Request("x", guidance = mapOf("image" to 1.0)) to "this bundle has: text",
            Request("x", parameters = mapOf("label" to Double.NaN)) to "parameter label",
            Request(task = "fill") to "fill needs an image", Request(task = "fill", image = image) to "fill needs a mask",
            Request(task = "fill", image = image, mask = mask, strength = 0.0) to "above 0, at most 1",
            Request(task = "fill", image = image, mask = Floats(listOf(1, 1, 64, 96))) to "the mask is all zero",
            Request(task = "fill", image = image, mask = mask, negative = "x") to "takes no negative prompt",
            Request(task = "fill", image = Floats(listOf(1, 3, 64, 64)), mask = mask) to "it must have [1, 3, 64, 96]",
        )
        generator().use { generator ->
            for ((request, message) in refused) {
                val error = assertFailsWith<MicroForgeError>(message) { generator.run(request) }
                assertContains(error.message.orEmpty(), message)
                assertTrue('\n' !in error.message.orEmpty())
            }
        }
        assertTrue(calls.isEmpty())
    }

    @Test
    fun `a damaged file and a graph that is none are said before and while it loads`() {
        Generator(bundle).use { generator ->
            generator.check(Request("a cat"))
            assertContains(assertFailsWith<BundleError> { generator.run(Request("a cat")) }.message.orEmpty(), "ONNX Runtime cannot load it")
            java.nio.file.Files.writeString(bundle.path.resolve("onnx/weights.bin"), "other")
            assertContains(assertFailsWith<BundleError> { generator.check(Request("a cat")) }.message.orEmpty(), "weights.bin has 5 bytes")
        }
        assertContains(assertFailsWith<BundleError> { Generator(bundle, "coreml") }.message.orEmpty(), "it has: onnx")
    }
}
