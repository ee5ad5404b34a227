package io.microforge.runtime

import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.Trajectory
import io.microforge.runtime.bundle.loadBundle
import io.microforge.runtime.engines.openSession
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import org.junit.jupiter.api.Assumptions.assumeTrue
import java.nio.file.Files
import java.nio.file.Path
import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.sqrt
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** Bundles that Python built, replayed on the real engine: components, then whole samples of every task. */
class TrajectoryTest {
    @Test
    fun `every component reaches its threshold on its golden cases`() {
        assumeTrue(BUNDLES.isNotEmpty(), "no bundle: -Dmicroforge.bundles=PATH")
        for (bundle in BUNDLES.map(::loadBundle)) {
            for ((key, entry) in bundle.manifest.golden.components) {
                val tensors = readSafetensors(bundle.checked(entry))
                val threshold = bundle.target("onnx").parity.getValue(key).thresholdDb
                openSession(bundle, "onnx", key, 1).use { session ->
                    val component = bundle.manifest.components.getValue(key)
                    val cases = tensors.keys.map { it.substringBefore('.') }.distinct()
                    for (case in cases) {
                        val outputs = session.run(component.inputs.associate { it.name to tensors.getValue("$case.input.${it.name}") })
                        for (spec in component.outputs) {
                            val db = psnrDb(tensors.getValue("$case.output.${spec.name}") as Floats, outputs.getValue(spec.name) as Floats)
                            assertTrue(db >= threshold - 0.1, "${bundle.path} $key $case ${spec.name}: $db dB, needed: $threshold")
                        }
                    }
                }
            }
        }
    }

    @Test
    fun `every trajectory replays stage by stage within the manifest's threshold`() {
        assumeTrue(BUNDLES.isNotEmpty(), "no bundle: -Dmicroforge.bundles=PATH")
        val results = mutableListOf<JsonElement>()
        val failures = mutableListOf<String>()
        for (bundle in BUNDLES.map(::loadBundle)) {
            assertTrue(bundle.manifest.golden.trajectories.isNotEmpty(), "${bundle.path} has no trajectories")
            for (trajectory in bundle.manifest.golden.trajectories) {
                val outcome = replay(bundle, trajectory)
                results += outcome.json(bundle, trajectory)
                if (!outcome.passed) failures += "${bundle.path} ${trajectory.task} ${trajectory.size}: $outcome"
            }
        }
        writeReport(results)
        assertEquals(emptyList(), failures)
    }

    private data class Outcome(
        val idsEqual: Boolean,
        val noiseEqual: Boolean,
        val worstPixel: Double,
        val psnrDb: Double,
        val latentMax: Double,
        val limit: String,
        val withinLimit: Boolean,
    ) {
        val passed get() = idsEqual && noiseEqual && withinLimit

        fun json(bundle: Bundle, trajectory: Trajectory): JsonElement = JsonObject(
            mapOf(
                "bundle" to JsonPrimitive(bundle.id),
                "model" to JsonPrimitive(bundle.manifest.model.name),
                "precision" to JsonPrimitive(bundle.target("onnx").precision),
                "task" to JsonPrimitive(trajectory.task),
                "size" to JsonPrimitive("${trajectory.size}"),
                "worst_pixel" to JsonPrimitive(worstPixel),
                "psnr_db" to (if (psnrDb.isFinite()) JsonPrimitive(psnrDb) else JsonNull),
                "limit" to JsonPrimitive(limit),
                "passed" to JsonPrimitive(passed),
            ),
        )
    }

    private fun replay(bundle: Bundle, trajectory: Trajectory): Outcome {
        val stored = readSafetensors(bundle.checked(trajectory.file))
        val golden = { name: String -> stored[trajectory.renamed[name] ?: name] }
        val request = Request(
            trajectory.prompt.ifEmpty { null }, trajectory.task, golden("source") as Floats?, golden("mask") as Floats?, trajectory.seed,
            strength = trajectory.strength,
        )
        Generator(bundle, size = trajectory.size, threads = 1).use { generator ->
            val checked = generator.check(request)
            val user = checked.branches.first().prompt
            val idsEqual = checked.tokens.getValue(user).all { (name, tokens) ->
                val ids = golden("tokens.$name.ids") as Integers?
                ids == null || ids.data.contentEquals(tokens.ids.data)
            }
            val noiseEqual = bits((golden("noise") as Floats).data) == bits(generator.noise(trajectory.seed).data)
            val steps = mutableListOf<Step>()
            val result = generator.run(request) { steps += it }
            val u = golden("u") as Floats
            val latentMax = steps.indices.maxOf { index ->
                val size = steps[index].latent.data.size
                (0 until size).maxOf { abs(steps[index].latent.data[it] - u.data[index * size + it]).toDouble() }
            }
            val image = golden("image") as Floats
            val worst = image.data.indices.maxOf { abs(image.data[it] - result.floatImage.data[it]) } * 255.0
            val db = psnrDb(image, result.floatImage, peak = 1.0)
            val target = bundle.target("onnx")
            val quality = target.quality["${trajectory.size}"]
            return if (quality == null) {
                val limit = checkNotNull(target.image).threshold
                Outcome(idsEqual, noiseEqual, worst, db, latentMax, "pixel ${plain(limit)}", worst <= limit)
            } else {
                val limit = quality.limits.psnrWorstDb
                Outcome(idsEqual, noiseEqual, worst, db, latentMax, "PSNR ${plain(limit)} dB", db >= limit)
            }
        }
    }

    private fun plain(value: Double) = value.toString().removeSuffix(".0")

    private fun writeReport(results: List<JsonElement>) {
        val report = System.getProperty("microforge.report").orEmpty()
        if (report.isEmpty()) return
        val values = JsonObject(
            mapOf(
                "runtime" to JsonPrimitive("kotlin"),
                "engine" to JsonPrimitive("ONNX Runtime ${ai.onnxruntime.OrtEnvironment.getEnvironment().version}"),
                "trajectories" to JsonArray(results),
            ),
        )
        Files.writeString(Path.of(report), "$values\n")
    }
}

/** PSNR of [result] relative to [peak], or to the largest value of [reference]; infinite where nothing differs. */
fun psnrDb(reference: Floats, result: Floats, peak: Double? = null): Double {
    val error = sqrt(reference.data.indices.sumOf { (reference.data[it].toDouble() - result.data[it]).let { d -> d * d } } / reference.data.size)
    val largest = peak ?: reference.data.maxOf { abs(it) }.toDouble()
    return if (error == 0.0) Double.POSITIVE_INFINITY else 20.0 * log10(largest / error)
}
