package io.microforge.runtime.bundle

private val SIZE_NAME = Regex("[1-9][0-9]{0,6}x[1-9][0-9]{0,6}")
private const val MAX_KEYS = 256

/** Difference of a component from the reference in dB, and the smallest PSNR that is allowed. */
public data class Parity(public val psnrDb: Double, public val maxAbs: Double, public val thresholdDb: Double) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Parity(get("psnr_db").coefficient(), get("max_abs").notNegative(), get("threshold_db").coefficient())
        }
    }
}

/** Largest difference of any pixel of a whole sample from the reference, in 1/255. */
public data class ImageParity(public val maxAbs255: Double, public val threshold: Double) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            ImageParity(get("max_abs_255").notNegative(), get("threshold").notNegative())
        }
    }
}

/** Predicted bytes while one component runs. */
public data class Memory(public val weights: Long, public val activations: Long, public val peak: Long, public val arena: Long?) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Memory(
                get("weights").byteCount(), get("activations").byteCount(), get("peak").byteCount(), nullable("arena")?.byteCount(),
            )
        }
    }
}

/** How much of a component runs in the engine's delegates. */
public data class Coverage(
    public val operators: Int,
    public val delegated: Int,
    public val delegates: Int,
    public val outside: Map<String, String>,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            val coverage = Coverage(
                get("operators").count(), get("delegated").count(), get("delegates").count(),
                optional("outside")?.map(1000) { it.line() } ?: emptyMap(),
            )
            if (coverage.delegated > coverage.operators) {
                value.fail("${coverage.delegated} of ${coverage.operators} operators cannot be delegated")
            }
            coverage
        }
    }
}

/** What [Quality] must reach. */
public data class QualityLimits(
    public val psnrMedianDb: Double,
    public val psnrWorstDb: Double,
    public val guidanceNormRatioLow: Double,
    public val guidanceNormRatioHigh: Double,
    public val stateDrift: Double?,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            QualityLimits(
                get("psnr_median_db").coefficient(), get("psnr_worst_db").coefficient(),
                get("guidance_norm_ratio_low").ratio(), get("guidance_norm_ratio_high").ratio(), nullable("state_drift")?.ratio(),
            )
        }
    }
}

/** A quantized target at one size against the reference, over [images] whole samples from the same noise. */
public data class Quality(
    public val images: Int,
    public val psnrMedianDb: Double,
    public val psnrWorstDb: Double,
    public val guidanceNormRatio: Double,
    public val stateDrift: Double?,
    public val limits: QualityLimits,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Quality(
                get("images").int(1..Int.MAX_VALUE), get("psnr_median_db").coefficient(), get("psnr_worst_db").coefficient(),
                get("guidance_norm_ratio").ratio(), required("state_drift")?.ratio(), QualityLimits.read(get("limits")),
            )
        }
    }
}

/** Predicted peak bytes of the process: all stages kept loaded, or each loaded for its turn and freed after it. */
public data class PeakBytes(public val resident: Long, public val staged: Long) {
    internal companion object {
        fun read(value: JsonValue) = value.entry { PeakBytes(get("resident").byteCount(), get("staged").byteCount()) }
    }
}

/** The files of one engine and what was measured of them; docs/bundle.md, "Targets". */
public data class Target(
    public val precision: String,
    public val bytes: Long,
    public val files: Map<String, FileEntry>,
    public val parts: Map<String, List<FileEntry>>,
    public val sharedFiles: List<FileEntry>,
    public val sharedSha256: Map<String, String>,
    public val parity: Map<String, Parity>,
    public val image: ImageParity?,
    public val tasks: Map<String, ImageParity>,
    public val precisions: Map<String, String>,
    public val quality: Map<String, Quality>,
    public val memory: Map<String, Memory>,
    public val peaks: Map<String, PeakBytes>,
    public val operators: Map<String, Int>,
    public val coverage: Map<String, Coverage>,
    public val delegatedFraction: Double?,
) {
    /** Every file of the target, each once. */
    public fun entries(): List<FileEntry> =
        (files.values + parts.values.flatten() + sharedFiles).associateBy { it.path }.values.toList()

    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Target(
                get("precision").precision(),
                get("bytes").byteCount(),
                get("files").map(MAX_KEYS, key = KEY, read = FileEntry::read),
                keyed("parts") { it.list(0..MAX_KEYS, FileEntry::read) },
                optional("shared_files")?.list(0..MAX_KEYS, FileEntry::read) ?: emptyList(),
                keyed("shared_sha256") { it.sha256() },
                keyed("parity", Parity::read),
                nullable("image")?.let(ImageParity::read),
                optional("tasks")?.map(32, key = NAME, read = ImageParity::read) ?: emptyMap(),
                keyed("precisions") { it.precision() },
                optional("quality")?.map(64, key = SIZE_NAME, read = Quality::read) ?: emptyMap(),
                keyed("memory", Memory::read),
                optional("peaks")?.map(64, key = SIZE_NAME, read = PeakBytes::read) ?: emptyMap(),
                optional("operators")?.map(1000) { it.count() } ?: emptyMap(),
                keyed("coverage", Coverage::read),
                nullable("delegated_fraction")?.number(0.0, 1.0),
            )
        }

        private fun <T> Fields.keyed(name: String, read: (JsonValue) -> T): Map<String, T> =
            optional(name)?.map(MAX_KEYS, key = KEY, read = read) ?: emptyMap()

        private fun JsonValue.precision() = choice("fp32", "fp16", "int8")
    }
}

private fun JsonValue.notNegative() = number(0.0, Double.MAX_VALUE)

private fun JsonValue.ratio() = number(0.0, 1e9)

private fun JsonValue.count() = int(0..Int.MAX_VALUE)
