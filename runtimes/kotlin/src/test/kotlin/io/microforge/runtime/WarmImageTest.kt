package io.microforge.runtime

import io.microforge.runtime.bundle.loadBundle
import org.junit.jupiter.api.Assumptions.assumeTrue
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.Test
import kotlin.test.assertTrue

/** Time of a warm image, on demand: `mvn test -Dtest=WarmImageTest -Dmicroforge.images=20 -Dmicroforge.bundles=PATH`. */
class WarmImageTest {
    @Test
    fun `the time of a warm image with two threads is printed`() {
        val images = System.getProperty("microforge.images").orEmpty().toIntOrNull() ?: 0
        assumeTrue(images > 0 && BUNDLES.isNotEmpty(), "asked for with -Dmicroforge.images=COUNT")
        for (path in BUNDLES) {
            val bundle = loadBundle(path)
            Generator(bundle, size = bundle.manifest.sizes.first().size, threads = 2, keepLoaded = true).use { generator ->
                val times = (0 until images + 3).map { seed ->
                    val begin = System.nanoTime()
                    val stages = generator.run(Request("a red circle", seed = seed.toULong())).seconds
                    val total = (System.nanoTime() - begin) / 1e9
                    stages + mapOf("outside" to total - stages.values.sum(), "image" to total)
                }.drop(3)
                val medians = times.first().keys.associateWith { key -> times.map { it.getValue(key) }.sorted()[times.size / 2] }
                println("$path: medians in s of $images images: $medians, peak RSS ${peakRss()}")
                assertTrue(medians.getValue("image") > 0)
            }
        }
    }

    /** The peak resident memory of this process as Linux says it. */
    private fun peakRss(): String {
        val status = Path.of("/proc/self/status")
        if (!Files.isReadable(status)) return "unknown"
        return Files.readAllLines(status).first { it.startsWith("VmHWM") }.substringAfter(":").trim()
    }
}
