package io.microforge.runtime.bundle

import io.microforge.runtime.BundleError

/** Refuse a manifest whose parts contradict one another: after this a runtime looks up names and shapes without a case of its own. */
internal fun checkManifest(manifest: Manifest) {
    checkSizes(manifest)
    checkComponents(manifest)
    checkBytes(manifest)
    checkSamplers(manifest)
    for ((name, encoder) in manifest.encoders) {
        for (place in places(manifest, encoder.role, "encoders.$name")) {
            place.check(encoder.inputs, ENCODER_KINDS)
            encoder.latent?.let { place.needsOutput(it, place.latent) }
        }
    }
    for ((name, task) in manifest.tasks) checkTask(manifest, "tasks.$name", name, task)
    val role = manifest.decode.role
    if (role != null) {
        for (place in places(manifest, role, "decode")) {
            place.needsInput(manifest.decode.input, place.latent)
            place.needsOutput(manifest.decode.output, place.image)
        }
    } else if (manifest.latent.channels != 3 || manifest.latent.downsample != 1) {
        refuse("decode has no role, so the latent must be an image: 3 channels, downsample 1")
    }
    if (manifest.preview != null && manifest.preview.matrix.first().size != manifest.latent.channels) {
        refuse("preview.matrix needs rows of ${manifest.latent.channels} numbers, one per channel")
    }
    checkTargets(manifest)
}

/** The sampler tables that an image size may use, the default one first. */
internal fun tablesFor(manifest: Manifest, size: SizeEntry): List<SamplerTable> =
    manifest.samplers.filter { it.size == null || it.size == size.size }

private val ENCODER_KINDS = setOf("tokens", "token_mask", "image", "zeros", "values", "parameter")

private fun refuse(message: String): Nothing = throw BundleError(message)

private fun <T> known(values: Map<String, T>, key: String, where: String, what: String): T =
    values[key] ?: refuse("$where names ${quoted(key)}, which is not in $what")

/** A component at one image size, and where messages say the problem is. */
private class Place(val manifest: Manifest, val size: SizeEntry, val component: Component, val where: String) {
    val latent = listOf(1) + size.latentShape
    val image = listOf(1, 3, size.height, size.width)

    /** Every input is bound, has a default or is [taken], and gets its shape. */
    fun check(bindings: Bindings, allowed: Set<String>? = null, taken: Set<String> = emptySet()) {
        for (spec in component.inputs) {
            val expression = bindings[spec.name]
            if (expression == null) {
                if (spec.name !in taken && spec.default == null) refuse("$where: nothing says where input ${quoted(spec.name)} comes from")
            } else if (spec.name in taken) {
                refuse("$where: input ${quoted(spec.name)} is both bound and carried")
            } else {
                fits(spec, expression, allowed)
            }
        }
    }

    private fun fits(spec: TensorSpec, expression: Expression, allowed: Set<String>?) {
        if (expression is Part) return partFits(spec.name, spec.shape, expression, allowed)
        expression as Concat
        val lengths = expression.parts.map { it.length }
        if (expression.axis >= spec.shape.size || lengths.sumOf { it.toLong() } != spec.shape[expression.axis].toLong()) {
            refuse("$where: ${quoted(spec.name)} of shape ${spec.shape} cannot have parts of $lengths along axis ${expression.axis}")
        }
        for (item in expression.parts) {
            partFits(spec.name, spec.shape.toMutableList().also { it[expression.axis] = item.length }, item.part, allowed)
        }
    }

    private fun partFits(name: String, shape: List<Int>, part: Part, allowed: Set<String>?) {
        if (allowed != null && part.kind !in allowed) refuse("$where: ${quoted(name)} cannot come from ${quoted(part.kind)} here")
        val source = shapeOf(name, shape, part)
        if (source != shape) refuse("$where: ${quoted(name)} needs shape $shape, ${part.kind} has $source")
    }

    /** The shape that [part] has; [shape] itself where it takes any. */
    private fun shapeOf(name: String, shape: List<Int>, part: Part): List<Int> = when (part) {
        Latent -> latent
        Image -> image
        LatentMask -> listOf(1, 1) + size.latentShape.drop(1)
        is Tokens -> listOf(1, known(manifest.tokenizers, part.tokenizer, where, "tokenizers").length)
        is TokenMask -> listOf(1, known(manifest.tokenizers, part.tokenizer, where, "tokenizers").length)
        is Encoded -> encodedShape(part)
        is Parameter -> shape.also { known(manifest.parameters, part.parameter, where, "parameters") }
        is Values -> shape.also {
            if (part.values.size != 1 && part.values.size.toLong() != product(shape)) {
                refuse("$where: ${quoted(name)} of shape $shape cannot hold ${part.values.size} values")
            }
        }
        Time, Zeros -> shape
    }

    private fun encodedShape(part: Encoded): List<Int> {
        val encoder = known(manifest.encoders, part.encoder, where, "encoders")
        val key = manifest.find(encoder.role, size.size)
        val spec = key?.let { manifest.components.getValue(it).output(part.output) }
        return spec?.shape ?: refuse("$where: encoder ${quoted(part.encoder)} has no output ${quoted(part.output)}")
    }

    fun needsInput(name: String, shape: List<Int>) = needs("input", component.input(name), name, shape)

    fun needsOutput(name: String, shape: List<Int>) = needs("output", component.output(name), name, shape)

    private fun needs(kind: String, spec: TensorSpec?, name: String, shape: List<Int>) {
        if (spec == null) refuse("$where: ${component.role} has no $kind ${quoted(name)}")
        if (spec.shape != shape) refuse("$where: $kind ${quoted(name)} has shape ${spec.shape}, not $shape")
    }
}

/** The component of [role] at every size. */
private fun places(manifest: Manifest, role: String, where: String): List<Place> = manifest.sizes.map { size ->
    val key = manifest.find(role, size.size) ?: refuse("$where: there is no component of role ${quoted(role)} for size ${size.size}")
    Place(manifest, size, manifest.components.getValue(key), where)
}

private fun checkTask(manifest: Manifest, where: String, name: String, task: Task) {
    for (place in places(manifest, task.network, where)) {
        place.needsOutput(task.output, place.latent)
        val taken = carriedInputs(manifest, place)
        for (branch in task.branches) {
            checkBranch(manifest, where, task, branch)
            val shared = manifest.conditions.filterKeys { place.component.input(it) != null }
            place.check(shared + branch.conditions, taken = taken)
            place.check(shared + branch.conditions + branch.unprompted, taken = taken)
        }
    }
    if (task.source != null) checkSource(manifest, where, task.source)
    if (task.prompt == PromptUse.NONE) return
    for ((key, entry) in manifest.tokenizers) {
        val prefix = entry.prefix[name] ?: refuse("tokenizers.$key.prefix lacks the task ${quoted(name)}")
        if (prefix.size + entry.suffix.size > entry.length) {
            refuse("tokenizers.$key: the frame of ${quoted(name)} is longer than ${entry.length} ids")
        }
    }
}

private fun carriedInputs(manifest: Manifest, place: Place): Set<String> {
    val taken = mutableSetOf<String>()
    for (state in manifest.state) {
        val spec = place.component.input(state.input) ?: continue
        place.needsOutput(state.output, spec.shape)
        taken += state.input
        val name = state.flag ?: continue
        val flag = place.component.input(name)
        if (flag == null || product(flag.shape) != 1L) {
            refuse("${place.where}: the state's flag ${quoted(name)} must be an input of one element")
        }
        taken += name
    }
    return taken
}

private fun checkBranch(manifest: Manifest, where: String, task: Task, branch: BranchEntry) {
    for (scale in branch.weight.scales.keys) known(manifest.guidance, scale, where, "guidance")
    if (branch.unprompted.isNotEmpty() && branch.prompt != BranchPrompt.NEGATIVE) {
        refuse("$where: only a branch with the negative prompt can have unprompted conditions")
    }
    val parts = (branch.conditions.values + branch.unprompted.values).flatMap(::partsOf)
    if (task.source == null && parts.any { it == Image || it == LatentMask }) {
        refuse("$where: a task without a source has no image and no mask")
    }
}

private fun checkSource(manifest: Manifest, where: String, source: SourceEntry) {
    val encoder = known(manifest.encoders, source.encoder, where, "encoders")
    if (encoder.latent == null) refuse("$where: encoder ${quoted(source.encoder)} gives no latent")
    if (source.mask == MaskUse.NONE && source.maskedValue != null) refuse("$where: masked_value without a mask")
    if (source.mask != MaskUse.NONE && manifest.samplers.any { table -> table.rows.any { it.level == null } }) {
        refuse("$where: a mask needs the noise level of every sampler row")
    }
    if (source.start == null) return
    for (size in manifest.sizes) {
        if (tablesFor(manifest, size).none { it.starts().isNotEmpty() }) {
            refuse("$where: no sampler table for ${size.size} can start from an image")
        }
    }
}

private fun checkSamplers(manifest: Manifest) {
    if (manifest.samplers.distinctBy { Triple(it.steps, it.size, it.strength) }.size != manifest.samplers.size) {
        refuse("samplers holds two tables for the same steps, size and strength")
    }
    for (size in manifest.sizes) {
        if (tablesFor(manifest, size).none { it.strength == null }) refuse("samplers has no table for size ${size.size}")
    }
    if (manifest.samplers.sumOf { it.rows.size } > 10_000) refuse("samplers has more than 10,000 rows")
    for ((what, items) in mapOf("guidance" to manifest.guidance, "parameters" to manifest.parameters)) {
        for ((name, item) in items) {
            if (item.default !in item.low..item.high) {
                refuse("$what.$name: default ${item.default} is outside ${item.low} to ${item.high}")
            }
        }
    }
}

private fun checkSizes(manifest: Manifest) {
    val downsample = manifest.latent.downsample
    for (entry in manifest.sizes) {
        if (entry.latentShape != manifest.latent.shape(entry.size) || entry.height % downsample != 0 || entry.width % downsample != 0) {
            refuse("size ${entry.size} with latent_shape ${entry.latentShape} does not fit the latent")
        }
        if (3L * entry.height * entry.width > MAX_ELEMENTS) refuse("size ${entry.size} is too large")
    }
    if (manifest.sizes.distinctBy { it.size }.size != manifest.sizes.size) refuse("sizes names one size twice")
}

private fun checkComponents(manifest: Manifest) {
    val sizes = manifest.sizes.map { it.size }
    val seen = mutableSetOf<Pair<String, Size?>>()
    for ((key, component) in manifest.components) {
        if (!seen.add(component.role to component.size)) {
            refuse("components holds two ${component.role} of size ${component.size}")
        }
        if (component.size != null && component.size !in sizes) {
            refuse("component ${quoted(key)} has size ${component.size}, which is not in sizes")
        }
        for (spec in component.inputs) {
            val count = spec.default?.size ?: 0
            if (count > 1 && count.toLong() != product(spec.shape)) {
                refuse("component ${quoted(key)}: the default of ${quoted(spec.name)} does not fill ${spec.shape}")
            }
        }
    }
}

private fun checkBytes(manifest: Manifest) {
    val total = manifest.files().sumOf { it.bytes }
    if (manifest.bytes != total) refuse("bytes is ${manifest.bytes}, the files have $total together")
    val words = manifest.tokenizers.values.associate { it.file.path to it.file.bytes }
    for ((name, target) in manifest.targets) {
        val sum = (words + target.entries().associate { it.path to it.bytes }).values.sum()
        if (target.bytes != sum) refuse("targets.$name.bytes is ${target.bytes}, its files have $sum together")
    }
}

private fun checkTargets(manifest: Manifest) {
    val sizes = manifest.sizes.map { "${it.size}" }
    for ((name, target) in manifest.targets) {
        val keyed = mapOf(
            "files" to target.files, "parts" to target.parts, "parity" to target.parity, "precisions" to target.precisions,
            "memory" to target.memory, "coverage" to target.coverage, "shared_sha256" to target.sharedSha256,
        )
        for ((what, items) in keyed) {
            for (key in items.keys) known(manifest.components, key, "targets.$name.$what", "components")
        }
        for (task in target.tasks.keys) known(manifest.tasks, task, "targets.$name.tasks", "tasks")
        for ((what, items) in mapOf("quality" to target.quality, "peaks" to target.peaks)) {
            items.keys.firstOrNull { it !in sizes }?.let { refuse("targets.$name.$what has size $it, which is not in sizes") }
        }
    }
    for (key in manifest.golden.components.keys) known(manifest.components, key, "golden.components", "components")
    for (trajectory in manifest.golden.trajectories) {
        known(manifest.tasks, trajectory.task, "golden.trajectories", "tasks")
        if ("${trajectory.size}" !in sizes) refuse("golden.trajectories has size ${trajectory.size}, which is not in sizes")
    }
}

private fun product(shape: List<Int>): Long = shape.fold(1L) { product, side -> product * side }
