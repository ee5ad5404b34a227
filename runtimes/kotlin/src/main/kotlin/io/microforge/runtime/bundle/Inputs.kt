package io.microforge.runtime.bundle

/** Type of a tensor's elements. */
public enum class DType { FLOAT32, FLOAT16, INT64, INT32 }

/** An end of a text or a row of token ids. */
public enum class EdgeSide { LEFT, RIGHT }

/**
 * A Hugging Face `tokenizer.json` and the frame of its token ids.
 *
 * An encoded prompt is `prefix + ids + suffix`, cut to fit and filled with [pad] up to [length]. [before] stands before the
 * user's prompt, never before a negative or an empty one.
 */
public data class Tokenizer(
    public val file: FileEntry,
    public val length: Int,
    public val prefix: Map<String, List<Long>>,
    public val suffix: List<Long>,
    public val pad: Long,
    public val padding: EdgeSide,
    public val truncation: EdgeSide,
    public val before: String,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Tokenizer(
                FileEntry.read(get("file")),
                get("length").int(1..(1 shl 14)),
                get("prefix").map(32, key = NAME) { it.ids() },
                get("suffix").ids(),
                get("pad").tokenId(),
                optional("padding")?.edge() ?: EdgeSide.RIGHT,
                optional("truncation")?.edge() ?: EdgeSide.RIGHT,
                optional("before")?.text(4096) ?: "",
            )
        }

        private fun JsonValue.tokenId() = long(0L until (1L shl 31))

        private fun JsonValue.ids() = list(0..64) { it.tokenId() }

        private fun JsonValue.edge() = if (choice("left", "right") == "left") EdgeSide.LEFT else EdgeSide.RIGHT
    }
}

/** Where an input comes from; docs/bundle.md lists the kinds. */
public sealed interface Expression {
    /** The word of the manifest. */
    public val kind: String
}

/** An expression that a concatenation may hold. */
public sealed interface Part : Expression

/** The current input u of the sampler, (1, C, h, w). */
public data object Latent : Part {
    override val kind: String get() = "latent"
}

/** The time of the current evaluation, in every element. */
public data object Time : Part {
    override val kind: String get() = "time"
}

/** Token ids (1, L) of the branch's prompt. */
public data class Tokens(public val tokenizer: String) : Part {
    override val kind: String get() = "tokens"
}

/** The mask (1, L) of the same ids: 1 on tokens, 0 on padding. */
public data class TokenMask(public val tokenizer: String) : Part {
    override val kind: String get() = "token_mask"
}

/** An output of an encoder, which saw the branch's prompt or the user's image. */
public data class Encoded(public val encoder: String, public val output: String) : Part {
    override val kind: String get() = "encoded"
}

/** The user's image as the task shows it to the networks: (1, 3, H, W) in [0, 1]. */
public data object Image : Part {
    override val kind: String get() = "image"
}

/** (1, 1, h, w): 1 for every latent position that contains a masked pixel; all ones without a mask. */
public data object LatentMask : Part {
    override val kind: String get() = "latent_mask"
}

/** Zeros of the input's shape. */
public data object Zeros : Part {
    override val kind: String get() = "zeros"
}

/** Literal numbers in the order of the input's elements, or one number for all of them. */
public data class Values(public val values: List<Double>) : Part {
    override val kind: String get() = "values"
}

/** A number that the user chooses, in every element; `parameters` declares it. */
public data class Parameter(public val parameter: String) : Part {
    override val kind: String get() = "parameter"
}

/** One part of a concatenation with its length along the axis. */
public data class Sized(public val length: Int, public val part: Part)

/** Parts one after another along [axis]. */
public data class Concat(public val axis: Int, public val parts: List<Sized>) : Expression {
    override val kind: String get() = "concat"
}

/** Input name -> where it comes from. */
public typealias Bindings = Map<String, Expression>

/**
 * A component that runs before sampling: on every prompt that a branch needs, or on the user's image.
 *
 * [latent] names the output that is an image's latent as the decoder takes it.
 */
public data class EncoderEntry(public val role: String, public val inputs: Bindings, public val latent: String?) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            EncoderEntry(get("role").name(), get("inputs").bindings(), nullable("latent")?.tensorName())
        }
    }
}

/** A number that the user may choose within limits: a guidance scale, or a parameter such as a class label. */
public interface Choosable {
    public val default: Double
    public val low: Double
    public val high: Double
}

/** A number that the user may choose, such as a class label. */
public data class UserParameter(
    public val description: String,
    override val default: Double,
    override val low: Double,
    override val high: Double,
    public val integer: Boolean,
) : Choosable {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            UserParameter(
                optional("description")?.line() ?: "", get("default").finite(), get("low").finite(), get("high").finite(),
                optional("integer")?.boolean() ?: false,
            )
        }
    }
}

/** The expression itself, or the parts of a concatenation. */
public fun partsOf(expression: Expression): List<Part> = when (expression) {
    is Concat -> expression.parts.map { it.part }
    is Part -> listOf(expression)
}

internal fun JsonValue.bindings(): Bindings = map(64, key = Regex("[!-~]{1,256}")) { it.expression() }

private fun JsonValue.expression(): Expression = entry {
    when (val kind = get("kind").text(80)) {
        "concat" -> Concat(
            get("axis").int(0..7),
            get("parts").list(2..8) { it.entry { Sized(get("length").side(), get("part").part()) } },
        )
        else -> partOf(kind, this@expression)
    }
}

private fun JsonValue.part(): Part = entry { partOf(get("kind").text(80), this@part) }

private fun Fields.partOf(kind: String, value: JsonValue): Part = when (kind) {
    "latent" -> Latent
    "time" -> Time
    "tokens" -> Tokens(get("tokenizer").name())
    "token_mask" -> TokenMask(get("tokenizer").name())
    "encoded" -> Encoded(get("encoder").name(), get("output").tensorName())
    "image" -> Image
    "latent_mask" -> LatentMask
    "zeros" -> Zeros
    "values" -> Values(get("values").list(1..4096) { it.finite() })
    "parameter" -> Parameter(get("parameter").name())
    else -> value.fail("kind ${quoted(kind)} is unknown")
}
