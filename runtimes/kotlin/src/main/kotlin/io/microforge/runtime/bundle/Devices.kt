package io.microforge.runtime.bundle

import io.microforge.runtime.SpecError

/** What an app may use of a device, in bytes. [appShare] is the part of the RAM that one app in the foreground may take. */
public data class DeviceProfile(public val name: String, public val ramBytes: Long, public val appShare: Double) {
    /** What one app in the foreground may use before the system ends it. */
    public val budgetBytes: Long get() = (ramBytes * appShare).toLong()
}

private const val GIB = 1L shl 30

/** Built-in profiles are classes of phones, not phones: their numbers are assumptions (docs/devices.md). */
public val DEVICES: Map<String, DeviceProfile> =
    listOf(2, 3, 4).map { DeviceProfile("phone-${it}gb", it * GIB, 1.0 / 3.0) }.associateBy { it.name }

/** Whether a bundle fits into a budget, and how it has to be run. */
public enum class FitVerdict {
    /** All stages may stay loaded. */
    RESIDENT,

    /** Each stage must be loaded for its turn and freed after it. */
    STAGED,

    /** Not even staged. */
    DOES_NOT_FIT,

    /** The bundle's target has no prediction. */
    UNKNOWN,
}

/** A verdict with the bytes that it follows from; null where the target has no prediction. */
public data class MemoryFit(
    public val verdict: FitVerdict,
    public val budgetBytes: Long,
    public val residentBytes: Long?,
    public val stagedBytes: Long?,
) {
    /** One sentence for the user of an app. */
    public val sentence: String get() = when (verdict) {
        FitVerdict.RESIDENT -> "It fits: it needs ${mib(residentBytes)} of ${mib(budgetBytes)} with everything loaded."
        FitVerdict.STAGED -> "It fits when its stages are loaded in turn: it needs ${mib(stagedBytes)} of ${mib(budgetBytes)}."
        FitVerdict.DOES_NOT_FIT -> "It does not fit: it needs ${mib(stagedBytes)}, and an app may use ${mib(budgetBytes)} here."
        FitVerdict.UNKNOWN -> "The bundle does not say how much memory it needs here."
    }

    private fun mib(bytes: Long?) = "${(bytes ?: 0) / (1L shl 20)} MiB"
}

/**
 * Whether [target] of a bundle fits at [size], from the manifest alone: it can be asked before anything else is downloaded.
 *
 * @param budgetBytes what the app may use, such as [DeviceProfile.budgetBytes].
 * @throws SpecError for a budget below 1.
 */
public fun fit(manifest: Manifest, target: String, size: Size, budgetBytes: Long): MemoryFit {
    if (budgetBytes < 1) throw SpecError("the budget is $budgetBytes bytes; at least 1 is needed")
    val peaks = manifest.targets[target]?.peaks?.get("$size") ?: return MemoryFit(FitVerdict.UNKNOWN, budgetBytes, null, null)
    val verdict = when {
        peaks.resident <= budgetBytes -> FitVerdict.RESIDENT
        peaks.staged <= budgetBytes -> FitVerdict.STAGED
        else -> FitVerdict.DOES_NOT_FIT
    }
    return MemoryFit(verdict, budgetBytes, peaks.resident, peaks.staged)
}
