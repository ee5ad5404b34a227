package io.microforge.runtime.bundle

/** Inputs and outputs of earlier evaluations that a row may use, its own included. */
internal const val MAX_HISTORY = 4
private const val MAX_STEPS = 1000

/** (a, s): a times a clean latent plus s times noise. */
public data class Level(public val clean: Double, public val noise: Double) {
    internal companion object {
        val CLEAN = Level(1.0, 0.0)

        fun read(value: JsonValue): Level {
            val (clean, noise) = value.list(2..2) { it.coefficient() }
            return Level(clean, noise)
        }
    }
}

/** A guidance scale that the user may change. */
public data class Scale(
    public val description: String,
    override val default: Double,
    override val low: Double,
    override val high: Double,
) : Choosable {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Scale(
                optional("description")?.line() ?: "",
                get("default").coefficient(), get("low").coefficient(), get("high").coefficient(),
            )
        }
    }
}

/** `constant + sum(factor * scale)` over the named guidance scales. */
public data class Weight(public val constant: Double, public val scales: Map<String, Double>) {
    /** The weight under these guidance scales. */
    public fun value(scales: Map<String, Double>): Double {
        var sum = 0.0
        for ((name, factor) in this.scales) sum += factor * scales.getValue(name)
        return constant + sum
    }

    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Weight(get("constant").coefficient(), optional("scales")?.map(8, key = NAME) { it.coefficient() } ?: emptyMap())
        }
    }
}

/** Whose text a branch sees. */
public enum class BranchPrompt { USER, NEGATIVE, EMPTY }

/** One evaluation of the network per step; m is the weighted sum of all branches' outputs. */
public data class BranchEntry(
    public val prompt: BranchPrompt,
    public val weight: Weight,
    public val conditions: Bindings,
    public val unprompted: Bindings,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            BranchEntry(
                BranchPrompt.valueOf(get("prompt").choice("user", "negative", "empty").uppercase()),
                Weight.read(get("weight")),
                optional("conditions")?.bindings() ?: emptyMap(),
                optional("unprompted")?.bindings() ?: emptyMap(),
            )
        }
    }
}

/** An output that is the same network's input of the next evaluation; zeros before the first one. */
public data class State(public val output: String, public val input: String, public val flag: String?) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            State(get("output").tensorName(), get("input").tensorName(), nullable("flag")?.tensorName())
        }
    }
}

/** From u_k to u_k+1: `sum u_j u_k-j + sum m_j m_k-j + noise * fresh noise`, j from 0. */
public data class SamplerRow(
    public val u: List<Double>,
    public val m: List<Double>,
    public val noise: Double = 0.0,
    public val level: Level? = null,
    public val clean: Level? = null,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            SamplerRow(
                get("u").list(0..MAX_HISTORY) { it.coefficient() },
                get("m").list(0..MAX_HISTORY) { it.coefficient() },
                optional("noise")?.coefficient() ?: 0.0,
                nullable("level")?.let(Level::read),
                nullable("clean")?.let(Level::read),
            )
        }
    }
}

/** One way to sample: [steps] is the user's count, the rows are the network's evaluations. */
public data class SamplerTable(
    public val steps: Int,
    public val size: Size?,
    public val strength: Double?,
    public val times: List<Double>,
    public val first: Double,
    public val rows: List<SamplerRow>,
) {
    /** Rows that sampling may start at from an image: they have a level, and nothing later reaches back past them. */
    public fun starts(): List<Int> {
        val allowed = mutableListOf<Int>()
        var least = rows.size
        for (index in rows.indices.reversed()) {
            val row = rows[index]
            least = minOf(least, index + 1 - maxOf(row.u.size, row.m.size, 1))
            if (least >= index && row.level != null) allowed += index
        }
        return allowed.reversed()
    }

    internal companion object {
        fun read(value: JsonValue) = value.entry {
            val table = SamplerTable(
                get("steps").int(1..MAX_STEPS),
                nullable("size")?.let(Size::read),
                nullable("strength")?.share(),
                get("times").list(1..MAX_STEPS) { it.coefficient() },
                get("first").coefficient(),
                get("rows").list(1..MAX_STEPS, SamplerRow::read),
            )
            if (table.rows.size != table.times.size) value.fail("${table.rows.size} rows for ${table.times.size} times")
            table.rows.forEachIndexed { index, row ->
                if (maxOf(row.u.size, row.m.size) > index + 1) value.fail("row $index uses evaluations before the first one")
            }
            table
        }
    }
}

/** The image is smaller than the sample and enlarged first. */
public data class Enlargement(public val factors: List<Int>, public val oversampling: Int) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Enlargement(get("factors").list(1..8) { it.int(1..16) }, get("oversampling").int(1..4))
        }
    }
}

/** Sampling starts from the encoded image; [strength] is the default share of the steps. */
public data class Start(public val strength: Double) {
    internal companion object {
        fun read(value: JsonValue) = value.entry { Start(get("strength").share()) }
    }
}

/** Whether a task takes a mask. */
public enum class MaskUse { NONE, OPTIONAL, REQUIRED }

/** What a task does with the user's image; docs/bundle.md, "With a source image". */
public data class SourceEntry(
    public val encoder: String,
    public val mask: MaskUse,
    public val maskedValue: Double?,
    public val enlarge: Enlargement?,
    public val start: Start?,
    public val preserveDistances: Pair<Double, Double>?,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            val distances = nullable("preserve_distances")?.let { place ->
                val (near, far) = place.list(2..2) { it.coefficient() }
                if (near < 0 || near >= far) value.fail("preserve_distances must be two rising distances from 0")
                near to far
            }
            SourceEntry(
                get("encoder").name(),
                MaskUse.valueOf((optional("mask")?.choice("none", "optional", "required") ?: "none").uppercase()),
                nullable("masked_value")?.number(0.0, 1.0),
                nullable("enlarge")?.let(Enlargement::read),
                nullable("start")?.let(Start::read),
                distances,
            )
        }
    }
}

/** Whether a task takes a prompt. */
public enum class PromptUse { REQUIRED, OPTIONAL, NONE }

/** One thing that the bundle can do. [network] is the role of the component that is evaluated at every step. */
public data class Task(
    public val description: String,
    public val network: String,
    public val output: String,
    public val prompt: PromptUse,
    public val branches: List<BranchEntry>,
    public val source: SourceEntry?,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Task(
                optional("description")?.line() ?: "",
                get("network").name(),
                get("output").tensorName(),
                PromptUse.valueOf(get("prompt").choice("required", "optional", "none").uppercase()),
                get("branches").list(1..4, BranchEntry::read),
                nullable("source")?.let(SourceEntry::read),
            )
        }
    }
}

/** How the final latent becomes an image (1, 3, H, W) in [0, 1]; without a [role] it is the image itself. */
public data class DecoderEntry(public val role: String?, public val input: String, public val output: String) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            DecoderEntry(
                required("role")?.name(), optional("input")?.tensorName() ?: "latent", optional("output")?.tensorName() ?: "image",
            )
        }
    }
}

/** A picture of a predicted clean latent: every position becomes [patch] x [patch] RGB pixels. */
public data class Preview(public val patch: Int, public val matrix: List<List<Double>>, public val bias: List<Double>) {
    internal companion object {
        private const val MOST = 768

        fun read(value: JsonValue) = value.entry {
            val patch = get("patch").int(1..16)
            val matrix = get("matrix").list(0..MOST) { row -> row.list(1..64) { it.coefficient() } }
            val bias = get("bias").list(0..MOST) { it.coefficient() }
            get("psnr_db").coefficient()
            val count = 3 * patch * patch
            if (matrix.size != count || bias.size != count || matrix.map { it.size }.toSet().size != 1) {
                value.fail("a patch of $patch pixels needs $count rows of equal length, and as many biases")
            }
            Preview(patch, matrix, bias)
        }
    }
}

/** The networks' latent is `(decoder's latent - mean) / std` per channel. */
public data class LatentSpace(
    public val channels: Int,
    public val downsample: Int,
    public val mean: List<Double>,
    public val std: List<Double>,
) {
    /** (C, h, w) of an image size. */
    public fun shape(size: Size): List<Int> = listOf(channels, size.height / downsample, size.width / downsample)

    internal companion object {
        fun read(value: JsonValue) = value.entry {
            val space = LatentSpace(
                get("channels").int(1..512), get("downsample").int(1..256),
                get("mean").list(0..512) { it.coefficient() }, get("std").list(0..512) { it.number(Double.MIN_VALUE, 1e6) },
            )
            if (space.mean.size != space.channels || space.std.size != space.channels) {
                value.fail("mean has ${space.mean.size} and std ${space.std.size} numbers for ${space.channels} channels")
            }
            space
        }
    }
}

private fun JsonValue.share() = number(Double.MIN_VALUE, 1.0)
