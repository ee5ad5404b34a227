package io.microforge.runtime.bundle

import io.microforge.runtime.BundleError
import io.microforge.runtime.NOISE_NAME
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/** The schema version that this library reads. */
public const val SCHEMA_VERSION: Int = 2

/** Name of the manifest's file. */
public const val MANIFEST: String = "manifest.json"

/** Bytes that a manifest may have; everything else is bounded by what it says. */
public const val MAX_MANIFEST_BYTES: Int = 1 shl 24

/** What a component does in the order of running. */
public enum class StageKind { PROMPT_ENCODER, IMAGE_ENCODER, NETWORK, DECODER }

/** A component role in the order of running, and what it does there. */
public data class Stage(public val role: String, public val kind: StageKind)

/** `manifest.json` of a bundle: parts that agree, and what follows from them. */
public data class Manifest(
    public val model: ModelEntry,
    public val bytes: Long,
    public val sizes: List<SizeEntry>,
    public val latent: LatentSpace,
    public val tokenizers: Map<String, Tokenizer>,
    public val encoders: Map<String, EncoderEntry>,
    public val conditions: Bindings,
    public val state: List<State>,
    public val guidance: Map<String, Scale>,
    public val parameters: Map<String, UserParameter>,
    public val samplers: List<SamplerTable>,
    public val tasks: Map<String, Task>,
    public val decode: DecoderEntry,
    public val preview: Preview?,
    public val components: Map<String, Component>,
    public val targets: Map<String, Target>,
    public val golden: Golden,
    public val provenance: Provenance,
) {
    /** Steps of a sample where the user names no count. */
    public val steps: Int get() = samplers.first().steps

    /** The task of a request that names none. */
    public val defaultTask: String get() = tasks.keys.first()

    /** Key of the component with this role at [size], or of the one that serves every size; null without one. */
    public fun find(role: String, size: Size?): String? {
        var every: String? = null
        for ((key, component) in components) {
            if (component.role != role) continue
            if (component.size != null && component.size == size) return key
            if (component.size == null) every = key
        }
        return every
    }

    /** Every file that the manifest names, each once. */
    public fun files(): List<FileEntry> {
        val entries = tokenizers.values.map { it.file } + golden.components.values + golden.trajectories.map { it.file } +
            targets.values.flatMap { it.entries() }
        return entries.associateBy { it.path }.values.toList()
    }

    /** What a sample of [task] runs, each role once, in order. */
    public fun stages(task: String = defaultTask): List<Stage> {
        val entry = tasks.getValue(task)
        val used = usedEncoders(this, entry).map { encoders.getValue(it) }
        val stages = used.filter(::readsPrompt).map { Stage(it.role, StageKind.PROMPT_ENCODER) } +
            used.filterNot(::readsPrompt).map { Stage(it.role, StageKind.IMAGE_ENCODER) } +
            Stage(entry.network, StageKind.NETWORK) + listOfNotNull(decode.role?.let { Stage(it, StageKind.DECODER) })
        return stages.distinctBy { it.role }
    }

    internal companion object {
        fun read(value: JsonValue) = value.entry {
            get("schema_version").int(SCHEMA_VERSION..SCHEMA_VERSION)
            get("noise").choice(NOISE_NAME)
            Manifest(
                ModelEntry.read(get("model")),
                get("bytes").byteCount(),
                get("sizes").list(1..64, SizeEntry::read),
                LatentSpace.read(get("latent")),
                optional("tokenizers")?.map(8, key = NAME, read = Tokenizer::read) ?: emptyMap(),
                optional("encoders")?.map(8, key = NAME, read = EncoderEntry::read) ?: emptyMap(),
                get("conditions").bindings(),
                optional("state")?.list(0..8, State::read) ?: emptyList(),
                optional("guidance")?.map(8, key = NAME, read = Scale::read) ?: emptyMap(),
                optional("parameters")?.map(16, key = NAME, read = UserParameter::read) ?: emptyMap(),
                get("samplers").list(1..128, SamplerTable::read),
                get("tasks").map(32, 1, NAME, read = Task::read),
                DecoderEntry.read(get("decode")),
                nullable("preview")?.let(Preview::read),
                get("components").map(256, key = KEY, read = Component::read),
                get("targets").map(3, key = Regex("onnx|coreml|executorch"), read = Target::read),
                optional("golden")?.let(Golden::read) ?: Golden(emptyMap(), emptyList()),
                Provenance.read(get("provenance")),
            )
        }
    }
}

/**
 * The first of [tasks] that these inputs are enough for; with a mask one that needs it before one that allows it.
 *
 * A task that starts sampling from the image is not chosen for an image alone: it is asked for with a strength.
 */
public fun taskFor(tasks: Map<String, Task>, image: Boolean, mask: Boolean): String? {
    val wanted = if (mask) listOf(setOf(MaskUse.REQUIRED), setOf(MaskUse.OPTIONAL)) else listOf(setOf(MaskUse.NONE, MaskUse.OPTIONAL))
    for (uses in wanted) {
        for ((name, task) in tasks) {
            val source = task.source
            if (source == null && !image) return name
            if (source == null || !image) continue
            val starts = source.start != null && source.mask != MaskUse.REQUIRED
            if (!starts && source.mask in uses) return name
        }
    }
    return null
}

/** Whether an encoder reads token ids, and not the user's image. */
public fun readsPrompt(encoder: EncoderEntry): Boolean = encoder.inputs.values.any { it is Tokens || it is TokenMask }

/** Names of the encoders that a task runs, in the manifest's order. */
internal fun usedEncoders(manifest: Manifest, task: Task): List<String> {
    val inputs = manifest.components.values.firstOrNull { it.role == task.network }?.inputs.orEmpty().map { it.name }.toSet()
    val names = task.branches.flatMap { branch ->
        listOf(manifest.conditions + branch.conditions, branch.unprompted).flatMap { bindings ->
            bindings.filterKeys { it in inputs }.values.flatMap(::partsOf).filterIsInstance<Encoded>().map { it.encoder }
        }
    } + listOfNotNull(task.source?.encoder)
    return manifest.encoders.keys.filter { it in names }
}

/**
 * A manifest from the bytes of its file; [where] names the file in messages.
 *
 * @throws BundleError one line that names the place, what was found and what is allowed.
 */
public fun parseManifest(data: ByteArray, where: String = MANIFEST): Manifest {
    if (data.size > MAX_MANIFEST_BYTES) throw BundleError("$where has more than $MAX_MANIFEST_BYTES bytes; no manifest is that long")
    val values = try {
        jsonTree(decoded(data))
    } catch (error: IllegalArgumentException) {
        throw notJson(where, error)
    } catch (error: CharacterCodingException) {
        throw notJson(where, error)
    }
    if (values !is JsonObject) throw BundleError("$where must hold a JSON object, got ${if (values is JsonArray) "a list" else "a value"}")
    val version = values["schema_version"] as? JsonPrimitive
    if (version == null || version.isString || version.content != "$SCHEMA_VERSION") {
        val shown = oneLine(values["schema_version"].toString()).take(40)
        throw BundleError("$where has schema_version $shown, this version reads $SCHEMA_VERSION; build the bundle again or update the app")
    }
    try {
        return Manifest.read(JsonValue(values, "")).also(::checkManifest)
    } catch (error: BundleError) {
        throw BundleError("$where: ${error.message}")
    }
}

private fun decoded(data: ByteArray): String {
    val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
    return decoder.decode(ByteBuffer.wrap(data)).toString()
}

private fun notJson(where: String, error: Exception) =
    BundleError("$where is not JSON (${oneLine(error.message.orEmpty()).take(200)}); copy or build the bundle again")
