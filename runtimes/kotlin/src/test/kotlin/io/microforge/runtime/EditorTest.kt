package io.microforge.runtime

import io.microforge.runtime.bundle.FitVerdict
import io.microforge.runtime.bundle.Size
import io.microforge.runtime.bundle.fit
import io.microforge.runtime.bundle.loadBundle
import io.microforge.runtime.images.Mask
import io.microforge.runtime.images.SourceImage
import io.microforge.runtime.images.sourceRequest
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assumptions.assumeTrue
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.BeforeTest
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** The editor on the real engine and a real bundle. */
class EditorTest {
    @BeforeTest
    fun needsABundle() = assumeTrue(BUNDLES.isNotEmpty(), "no bundle: -Dmicroforge.bundles=PATH")

    private val path: Path get() = BUNDLES.first()

    private fun picture(height: Int, width: Int) =
        SourceImage(Pixels(height, width, 3, ByteArray(height * width * 3) { (it / 3 % width * 3 + it % 3 * 40).toByte() }))

    @Test
    fun `the example of the README runs`() = runBlocking<Unit> {
        val link = Files.createTempDirectory("readme").resolve("microforge.mfb")
        Files.createSymbolicLink(link, path)
        val example =
            """
            val editor = Editor(Path.of("microforge.mfb"), Size(256, 256))
            val result = editor.generate("a red circle", seed = 1u).last() as Result
            val bitmap = result.image // RGB bytes, row by row
            """.trimIndent()
        assertContains(Files.readString(Path.of("README.md")), example)

        val editor = Editor(link, Size(256, 256))
        val result = editor.generate("a red circle", seed = 1u).last() as Result
        val bitmap = result.image // RGB bytes, row by row

        editor.close()
        assertEquals(listOf(256, 256, 3), listOf(bitmap.height, bitmap.width, bitmap.channels))
        assertTrue(bitmap.data.toSet().size > 20, "the image is flat")
        Files.delete(link)
    }

    @Test
    fun `a picture of any size is edited, filled, varied and enlarged at its own size`() {
        val bundle = loadBundle(path)
        val tasks = bundle.manifest.tasks
        Editor(bundle, size = bundle.manifest.sizes.first().size, threads = 1).use { editor ->
            val source = picture(90, 120)
            val edited = run(editor, sourceRequest("edit", checkNotNull(tasks.getValue("edit").source), source), Request("make it green"))
            assertEquals(source.size, Size(edited.image.height, edited.image.width))

            val mask = Mask(90, 120, BooleanArray(90 * 120) { it % 120 in 40..80 && it / 120 in 30..60 })
            val filled = run(editor, sourceRequest("inpaint", checkNotNull(tasks.getValue("inpaint").source), source, mask), Request("a red circle"))
            val outside = mask.marked.indices.filter { !mask.marked[it] }.flatMap { listOf(3 * it, 3 * it + 1, 3 * it + 2) }
            assertTrue(outside.all { filled.image.data[it] == source.colors.data[it] })

            val steps = mutableListOf<Step>()
            val large = run(editor, sourceRequest("super-resolve", checkNotNull(tasks.getValue("super-resolve").source), source), Request(), steps::add)
            assertEquals(Size(180, 240), Size(large.image.height, large.image.width))
            assertEquals((1..steps.size).toList(), steps.map { it.index })
        }
    }

    @Test
    fun `the manifest says whether the bundle fits before it is downloaded`() {
        val manifest = loadBundle(path).manifest
        val size = manifest.sizes.first().size
        val peaks = manifest.targets.getValue("onnx").peaks.getValue("$size")
        val verdicts = listOf(peaks.resident, peaks.staged, peaks.staged - 1).map { fit(manifest, "onnx", size, it).verdict }
        assertEquals(listOf(FitVerdict.RESIDENT, FitVerdict.STAGED, FitVerdict.DOES_NOT_FIT), verdicts)
        assertEquals(FitVerdict.UNKNOWN, fit(manifest, "coreml", size, 1).verdict)
        assertContains(fit(manifest, "onnx", size, 1L shl 30).sentence, "It fits")
    }
}
