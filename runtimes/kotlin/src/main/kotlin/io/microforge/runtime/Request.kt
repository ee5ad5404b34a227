package io.microforge.runtime

import io.microforge.runtime.bundle.Bindings
import io.microforge.runtime.bundle.BranchPrompt
import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.Choosable
import io.microforge.runtime.bundle.Encoded
import io.microforge.runtime.bundle.Manifest
import io.microforge.runtime.bundle.MaskUse
import io.microforge.runtime.bundle.PromptUse
import io.microforge.runtime.bundle.SamplerTable
import io.microforge.runtime.bundle.SizeEntry
import io.microforge.runtime.bundle.SourceEntry
import io.microforge.runtime.bundle.Task
import io.microforge.runtime.bundle.partsOf
import io.microforge.runtime.bundle.readsPrompt
import io.microforge.runtime.bundle.tablesFor
import io.microforge.runtime.images.upsampled

/**
 * What is asked of a bundle; null is the bundle's own choice.
 *
 * [image] is (1, 3, H, W) in [0, 1] at the generator's size, smaller by an allowed factor for a task that enlarges. [mask]
 * (1, 1, H, W) is 1 where the image may change. [strength] is the share of the steps that a task runs that starts from the
 * image. [guidance] and [parameters] are numbers by the manifest's names.
 */
public data class Request(
    public val prompt: String? = null,
    public val task: String? = null,
    public val image: Floats? = null,
    public val mask: Floats? = null,
    public val seed: ULong = 0u,
    public val steps: Int? = null,
    public val strength: Double? = null,
    public val negative: String? = null,
    public val guidance: Map<String, Double> = emptyMap(),
    public val parameters: Map<String, Double> = emptyMap(),
)

/** Text that encoders see; null is the empty prompt. [user]: whether it is the user's prompt. */
internal data class PromptText(val text: String?, val user: Boolean = false)

/** A guidance branch that is evaluated. Branches with the same [prompt] and [bindings] are evaluated once. */
internal class ActiveBranch(val prompt: PromptText, val bindings: Bindings, val weight: Double) {
    override fun equals(other: Any?): Boolean = other is ActiveBranch && prompt == other.prompt && bindings == other.bindings

    override fun hashCode(): Int = 31 * prompt.hashCode() + bindings.hashCode()
}

/** Which latents an image encoder has to give: of the image that networks are shown, of the whole image. */
internal data class ImageUse(val shown: Boolean, val known: Boolean)

/** Outputs by encoder and prompt (null for image encoders), and the normalized latent of the whole image. */
internal class Encodings(val outputs: Map<Pair<String, PromptText?>, Map<String, Tensor>>, val known: Floats?)

/** A request that can be run: everything that could be refused about it was. */
public class Checked internal constructor(
    public val task: String,
    internal val entry: Task,
    internal val table: SamplerTable,
    internal val start: Int,
    internal val branches: List<ActiveBranch>,
    internal val tokens: Map<PromptText, Map<String, TokenIds>>,
    internal val promptEncoders: Map<String, List<PromptText>>,
    internal val imageEncoders: Map<String, ImageUse>,
    internal val request: Request,
    internal val guidance: Map<String, Double>,
    internal val parameters: Map<String, Double>,
    internal val strength: Double?,
    internal val image: Floats?,
    internal val shown: Floats?,
    internal val mask: Floats?,
    internal val cells: Floats?,
) {
    /** Steps that are counted, and sampler rows that are run. */
    public val steps: Int get() = table.steps

    /** Whether ids of a prompt were cut off. */
    public val truncated: Boolean get() = tokens.values.any { items -> items.values.any { it.truncated } }
}

/** Decide everything about [request] at one size; [tokenizer] opens a tokenizer by its name. */
internal fun checkRequest(bundle: Bundle, size: SizeEntry, request: Request, tokenizer: (String) -> FramedTokenizer): Checked {
    val manifest = bundle.manifest
    val name = request.task ?: manifest.defaultTask
    val task = manifest.tasks[name] ?: throw BundleError("${bundle.path} cannot $name; its tasks: ${manifest.tasks.keys.joinToString()}")
    val strength = strengthOf(name, task, request.strength)
    val (table, start) = chooseTable(tablesFor(manifest, size), request.steps, strength)
    val guidance = numbersOf("guidance scale", request.guidance, manifest.guidance)
    val branches = activeBranches(manifest, size, task, request, guidance)
    val tokens = tokensOf(manifest, name, task, request, branches, tokenizer)
    val images = imagesOf(name, task.source, size, request)
    val (prompts, encoders) = encodersOf(manifest, task, branches, images.mask != null)
    return Checked(
        name, task, table, start, branches, tokens, prompts, encoders, request, guidance,
        numbersOf("parameter", request.parameters, manifest.parameters), strength, images.image, images.shown, images.mask,
        images.mask?.let { latentMask(it, manifest.latent.downsample) },
    )
}

private fun activeBranches(
    manifest: Manifest,
    size: SizeEntry,
    task: Task,
    request: Request,
    guidance: Map<String, Double>,
): List<ActiveBranch> {
    val inputs = manifest.components.getValue(checkNotNull(manifest.find(task.network, size.size))).inputs.map { it.name }.toSet()
    val active = mutableListOf<ActiveBranch>()
    var readsNegative = false
    for (branch in task.branches) {
        val text = when (branch.prompt) {
            BranchPrompt.USER -> request.prompt
            BranchPrompt.NEGATIVE -> request.negative
            BranchPrompt.EMPTY -> null
        }
        val isNegative = branch.prompt == BranchPrompt.NEGATIVE
        val absent = if (isNegative && text == null) branch.unprompted else emptyMap()
        val weight = branch.weight.value(guidance)
        if (weight == 0.0) continue
        readsNegative = readsNegative || isNegative
        val prompt = PromptText(text, branch.prompt == BranchPrompt.USER && text != null)
        active += ActiveBranch(prompt, (manifest.conditions + branch.conditions + absent).filterKeys { it in inputs }, weight)
    }
    if (request.negative != null && !readsNegative) throw SpecError("this bundle takes no negative prompt here; leave it out")
    return active
}

private fun tokensOf(
    manifest: Manifest,
    name: String,
    task: Task,
    request: Request,
    branches: List<ActiveBranch>,
    tokenizer: (String) -> FramedTokenizer,
): Map<PromptText, Map<String, TokenIds>> {
    if (task.prompt == PromptUse.NONE) {
        if (request.prompt != null) throw SpecError("$name takes no prompt; leave it out")
        return branches.associate { it.prompt to emptyMap() }
    }
    if (request.prompt == null && task.prompt == PromptUse.REQUIRED) {
        throw PromptError("$name needs a prompt; describe the result in a few words")
    }
    for (text in listOfNotNull(request.prompt, request.negative)) {
        if (manifest.tokenizers.keys.any { tokenizer(it).isEmpty(text) }) {
            throw PromptError("the prompt is empty; describe the image in a few words")
        }
    }
    return branches.associate { branch ->
        branch.prompt to manifest.tokenizers.keys.associateWith { tokenizer(it).encode(branch.prompt.text, name, branch.prompt.user) }
    }
}

/** What has to be encoded: prompts by encoder, and images by encoder. */
private fun encodersOf(
    manifest: Manifest,
    task: Task,
    branches: List<ActiveBranch>,
    isMasked: Boolean,
): Pair<Map<String, List<PromptText>>, Map<String, ImageUse>> {
    val prompts = mutableMapOf<String, List<PromptText>>()
    val images = mutableMapOf<String, ImageUse>()
    val source = task.source
    val keeps = source != null && (isMasked || source.start != null || source.preserveDistances != null)
    for ((name, encoder) in manifest.encoders) {
        val readers = branches.filter { branch ->
            branch.bindings.values.flatMap(::partsOf).any { it is Encoded && it.encoder == name }
        }.map { it.prompt }.distinct()
        val known = keeps && source.encoder == name
        if (readsPrompt(encoder)) {
            if (readers.isNotEmpty()) prompts[name] = readers
        } else if (readers.isNotEmpty() || known) {
            images[name] = ImageUse(readers.isNotEmpty(), known)
        }
    }
    return prompts to images
}

/** The user's image at the generator's size, what networks are shown of it, and the mask as zeros and ones. */
private class Images(val image: Floats?, val shown: Floats?, val mask: Floats?)

private fun imagesOf(name: String, source: SourceEntry?, size: SizeEntry, request: Request): Images {
    if (source == null) {
        if (request.image != null || request.mask != null) throw SpecError("$name takes no image")
        return Images(null, null, null)
    }
    val own = request.image ?: throw SpecError("$name needs an image")
    val image = if (source.enlarge == null) own else enlarged(name, own, size, source)
    val needed = listOf(1, 3, size.height, size.width)
    if (image.shape != needed) throw SpecError("the image has shape ${image.shape}; it must have $needed")
    if (request.mask == null) {
        if (source.mask == MaskUse.REQUIRED) throw SpecError("$name needs a mask")
        return Images(image, image, null)
    }
    if (source.mask == MaskUse.NONE) throw SpecError("$name takes no mask")
    val mask = checkMask(request.mask, size.height, size.width)
    return Images(image, if (source.maskedValue == null) image else masked(image, mask, source.maskedValue), mask)
}

private fun enlarged(name: String, image: Floats, size: SizeEntry, source: SourceEntry): Floats {
    val entry = checkNotNull(source.enlarge)
    val allowed = entry.factors.flatMap { listOf(it, it * entry.oversampling) }.distinct().sorted()
    val factor = if (image.shape.size == 4 && image.shape[2] > 0) size.height / image.shape[2] else 0
    if (factor !in allowed || image.shape != listOf(1, 3, size.height / factor, size.width / factor)) {
        val sizes = allowed.joinToString { "${size.height / it}x${size.width / it}" }
        throw SpecError("$name to ${size.size} needs an image of one of: $sizes; got ${image.shape}")
    }
    return upsampled(image, factor)
}

private fun strengthOf(name: String, task: Task, strength: Double?): Double? {
    val start = task.source?.start
    if (start == null) {
        if (strength != null) throw SpecError("strength does not belong to $name")
        return null
    }
    val chosen = strength ?: start.strength
    if (!(chosen > 0.0 && chosen <= 1.0)) throw SpecError("strength is $chosen; allowed: above 0, at most 1")
    return chosen
}

/** Every number of [known], the user's where there is one. */
private fun numbersOf(what: String, chosen: Map<String, Double>, known: Map<String, Choosable>): Map<String, Double> {
    for ((name, value) in chosen) {
        val item = known[name] ?: throw SpecError(
            "$what '$name' is unknown; this bundle has${if (known.isEmpty()) " none" else ": ${known.keys.joinToString()}"}",
        )
        if (value !in item.low..item.high) throw SpecError("$what $name is $value; allowed: ${item.low} to ${item.high}")
    }
    return known.mapValues { (name, item) -> chosen[name] ?: item.default }
}
