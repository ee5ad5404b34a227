package io.microforge.runtime

import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.Component
import io.microforge.runtime.bundle.Manifest
import io.microforge.runtime.bundle.Size
import io.microforge.runtime.bundle.SizeEntry
import io.microforge.runtime.bundle.loadBundle
import io.microforge.runtime.engines.Opener
import io.microforge.runtime.engines.Session
import io.microforge.runtime.engines.openSession
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.trySendBlocking
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.flow.flowOn
import java.io.Closeable
import java.nio.file.Path

/** What a flow of a sample emits: a [Step] after each step, and the [Result] in the end. */
public sealed interface Progress

/**
 * One image and how it was made.
 *
 * [image] are its bytes, [floatImage] (1, 3, H, W) the same before rounding, [latent] (1, C, h, w) the final normalized latent,
 * [seconds] the time of each stage by role, loading included.
 */
public class Result internal constructor(
    public val image: Pixels,
    public val floatImage: Floats,
    public val latent: Floats,
    public val task: String,
    public val prompt: String,
    public val seed: ULong,
    public val steps: Int,
    public val height: Int,
    public val width: Int,
    public val bundleId: String,
    public val truncated: Boolean,
    public val seconds: Map<String, Double>,
    public val negative: String?,
    public val strength: Double?,
    public val guidance: Map<String, Double>,
) : Progress {
    internal fun withSeed(seed: ULong) = Result(
        image, floatImage, latent, task, prompt, seed, steps, height, width, bundleId, truncated, seconds, negative, strength, guidance,
    )
}

/**
 * Makes images with one bundle, one engine and one size.
 *
 * Stages load when they are needed and are freed before the next one loads: prompt encoders, image encoder, network, decoder. On a
 * phone only one of them is in memory at a time. One image is made at a time, whatever thread asks.
 *
 * @property keepLoaded hold the stages in memory between images instead of freeing each after its use.
 */
public open class Generator(
    public val bundle: Bundle,
    public val target: String = "onnx",
    size: Size? = null,
    public val threads: Int? = null,
    public var keepLoaded: Boolean = false,
    private val opener: Opener? = null,
) : Closeable {
    /** Open the bundle in the folder [path], as `Generator(loadBundle(path))` does. */
    public constructor(path: Path, size: Size? = null, threads: Int? = null) : this(loadBundle(path), size = size, threads = threads)

    /** What the bundle says. */
    public val manifest: Manifest get() = bundle.manifest

    /** The image size of this generator. */
    public val size: SizeEntry = bundle.size(size)

    private val sessions = LinkedHashMap<String, Session>()
    private val tokenizers = mutableMapOf<String, FramedTokenizer>()
    private val seconds = LinkedHashMap<String, Double>()
    private val lock = Any()

    init {
        if (opener == null) bundle.target(target)
    }

    /** Free every stage that is still loaded. */
    override fun close(): Unit = synchronized(lock) {
        sessions.values.forEach(Session::close)
        sessions.clear()
    }

    /** A cold flow of an image of the bundle's default task; see [flow]. */
    public fun generate(prompt: String, seed: ULong = 0u, steps: Int? = null): Flow<Progress> =
        flow(Request(prompt = prompt, seed = seed, steps = steps))

    /**
     * A cold flow of one image: each collection makes it anew, off the caller's thread, and can be cancelled between evaluations of
     * the network. It fails as [run] does.
     */
    public fun flow(request: Request): Flow<Progress> = channelFlow {
        val result = make(request, { ensureActive() }, { trySendBlocking(it) })
        send(result)
    }.flowOn(Dispatchers.Default)

    /**
     * Everything that [run] could refuse, without loading an engine.
     *
     * @throws PromptError for a missing or empty prompt.
     * @throws SpecError for an image, mask, strength, guidance scale or parameter that is not allowed.
     * @throws BundleError for a task or a step count that the bundle does not have, or a damaged file.
     */
    public fun check(request: Request): Checked = synchronized(lock) {
        val checked = checkRequest(bundle, size, request, ::tokenizer)
        if (opener == null) {
            for (stage in manifest.stages(checked.task)) bundle.file(target, bundle.componentKey(stage.role, size.size))
        }
        checked
    }

    /** Make one image on this thread; throws as [check] does, before an engine is loaded. */
    public fun run(request: Request, callback: ((Step) -> Unit)? = null): Result = make(request, {}, callback)

    private fun make(request: Request, proceed: () -> Unit, callback: ((Step) -> Unit)?): Result = synchronized(lock) {
        val checked = check(request)
        seconds.clear()
        val encodings = encode(checked, proceed)
        val latent = sample(checked, encodings, proceed, callback)
        proceed()
        var image = decode(latent)
        if (checked.mask != null && checked.image != null) image = composited(image, checked.image, checked.mask)
        Result(
            toPixels(image), image, latent, checked.task, request.prompt.orEmpty(), request.seed, checked.steps, size.height, size.width,
            bundle.id, checked.truncated, seconds.toMap(), request.negative, checked.strength, checked.guidance,
        )
    }

    internal fun tokenizer(name: String): FramedTokenizer = tokenizers.getOrPut(name) {
        val entry = manifest.tokenizers.getValue(name)
        FramedTokenizer(entry, bundle.checked(entry.file))
    }

    /** The [index]-th noise (1, C, h, w) of [seed]; 0 is the initial one. */
    internal fun noise(seed: ULong, index: Int = 0): Floats {
        val shape = listOf(1) + size.latentShape
        return standardNormal(seed, shape, index.toLong() * elements(shape))
    }

    private fun encode(checked: Checked, proceed: () -> Unit): Encodings {
        val outputs = mutableMapOf<Pair<String, PromptText?>, Map<String, Tensor>>()
        for ((name, prompts) in checked.promptEncoders) {
            proceed()
            stage(manifest.encoders.getValue(name).role) { session ->
                for (prompt in prompts) {
                    val context = Context(tokens = checked.tokens.getValue(prompt), parameters = checked.parameters)
                    outputs[name to prompt] = encoded(session, name, context)
                }
            }
        }
        var known: Floats? = null
        for ((name, use) in checked.imageEncoders) {
            proceed()
            val latent = manifest.encoders.getValue(name).latent
            stage(manifest.encoders.getValue(name).role) { session ->
                if (use.shown) outputs[name to null] = encoded(session, name, Context(image = checked.shown))
                if (use.known && latent != null) {
                    val same = use.shown && checked.shown === checked.image
                    val whole = if (same) outputs.getValue(name to null) else encoded(session, name, Context(image = checked.image))
                    known = whole.getValue(latent) as Floats
                }
            }
        }
        return Encodings(outputs, known)
    }

    /** The outputs of an encoder; an image's latent is normalized. */
    private fun encoded(session: Session, name: String, context: Context): Map<String, Tensor> {
        val entry = manifest.encoders.getValue(name)
        val outputs = session.run(boundInputs(component(entry.role), entry.inputs, context))
        val latent = entry.latent ?: return outputs
        return outputs + (latent to normalize(outputs.getValue(latent) as Floats, manifest.latent))
    }

    private fun sample(checked: Checked, encodings: Encodings, proceed: () -> Unit, callback: ((Step) -> Unit)?): Floats {
        proceed()
        val noise = noise(checked.request.seed)
        val source = checked.entry.source
        val after = encodings.known?.takeIf { source != null }?.let { known ->
            afterStep(known, noise, checked.cells, source?.preserveDistances)
        }
        return stage(checked.entry.network) { session ->
            sample(
                checked.table, evaluation(session, checked, encodings, proceed), start(checked, encodings, noise),
                { noise(checked.request.seed, it) }, checked.start, after, manifest.preview, callback,
            )
        }
    }

    /** The u of the first row: noise, or the image's latent at that row's noise level. */
    private fun start(checked: Checked, encodings: Encodings, noise: Floats): Floats {
        val level = checked.table.rows[checked.start].level
        if (checked.strength != null && encodings.known != null && level != null) return atLevel(level, encodings.known, noise)
        return if (checked.table.first == 1.0) noise else weightedSum(listOf(checked.table.first to noise))
    }

    /** The weighted sum of all branches; those with equal conditions are evaluated once. */
    private fun evaluation(session: Session, checked: Checked, encodings: Encodings, proceed: () -> Unit): Evaluate {
        val distinct = checked.branches.map { checked.branches.indexOf(it) }
        val branches = distinct.distinct().associateWith { branch(session, checked, encodings, checked.branches[it]) }
        val weights = checked.branches.map { it.weight }
        return { latent, time ->
            val outputs = branches.mapValues { (_, branch) ->
                proceed()
                branch.evaluate(latent, time)
            }
            val states = branches.getValue(0).states()
            if (weights == listOf(1.0)) {
                outputs.getValue(0) to states
            } else {
                weightedSum(weights.zip(distinct.map { outputs.getValue(it) })) to states
            }
        }
    }

    private fun branch(session: Session, checked: Checked, encodings: Encodings, active: ActiveBranch): Branch {
        val encoded = encodings.outputs.filterKeys { (_, prompt) -> prompt == null || prompt == active.prompt }
            .flatMap { (key, values) -> values.map { (output, value) -> (key.first to output) to value } }.toMap()
        val context = Context(checked.tokens.getValue(active.prompt), encoded, checked.shown, checked.cells, checked.parameters)
        return Branch(session, component(checked.entry.network), active.bindings, checked.entry.output, manifest.state, context)
    }

    /** Image (1, 3, H, W) in [0, 1] of a normalized latent (1, C, h, w). */
    private fun decode(latent: Floats): Floats {
        val entry = manifest.decode
        val raw = denormalize(latent, manifest.latent)
        val role = entry.role ?: return raw.map { _, value -> value.coerceIn(0f, 1f) }
        return stage(role) { session -> session.run(mapOf(entry.input to raw)).getValue(entry.output) as Floats }
    }

    private fun component(role: String): Component = manifest.components.getValue(bundle.componentKey(role, size.size))

    /** Run [action] with the loaded session of [role], freed afterwards unless stages are kept; its time is noted. */
    private fun <T> stage(role: String, action: (Session) -> T): T {
        val begin = System.nanoTime()
        val session = sessions.getOrPut(role) {
            val key = bundle.componentKey(role, size.size)
            opener?.open(bundle, target, key, threads) ?: openSession(bundle, target, key, threads)
        }
        try {
            return action(session)
        } finally {
            if (!keepLoaded) sessions.remove(role)?.close()
            seconds[role] = (seconds[role] ?: 0.0) + (System.nanoTime() - begin) / 1e9
        }
    }
}
