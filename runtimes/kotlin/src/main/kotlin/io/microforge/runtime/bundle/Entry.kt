package io.microforge.runtime.bundle

/** Elements that one tensor may have. */
internal const val MAX_ELEMENTS = 1L shl 26

/** Largest integer that JSON readers of every language keep exact. */
internal const val MAX_BYTES = (1L shl 53) - 1

internal const val MAX_SIDE = 1 shl 20
internal val NAME = Regex("[a-z][a-z0-9_-]{0,63}")
internal val KEY = Regex("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
private val TENSOR_NAME = Regex("[!-~]{1,256}")
private val SHA256 = Regex("[0-9a-f]{64}")
private val LINE = Regex("[^\n\r]*")
private const val FORBIDDEN = "\\:*?\"<>|"

/** One file of a bundle; its size and hash are checked before it is opened. */
public data class FileEntry(public val path: String, public val sha256: String, public val bytes: Long) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            val place = get("path")
            val path = place.text(512, 1)
            if (!isRelative(path)) place.fail("path ${quoted(path)} must be relative, with / between names and no . or .. among them")
            FileEntry(path, get("sha256").sha256(), get("bytes").byteCount())
        }
    }
}

/** An image size in pixels. */
public data class Size(public val height: Int, public val width: Int) {
    override fun toString(): String = "${height}x$width"

    internal companion object {
        fun read(value: JsonValue) = value.entry { Size(get("height").side(), get("width").side()) }
    }
}

/** Whether [path] is a plain relative path that cannot leave the folder that it is relative to. */
internal fun isRelative(path: String): Boolean =
    path.split("/").none { it in listOf("", ".", "..") } && path.none { it in FORBIDDEN || it.code < 32 }

internal fun JsonValue.name() = text(64, 1, NAME)

internal fun JsonValue.tensorName() = text(256, 1, TENSOR_NAME)

internal fun JsonValue.sha256() = text(64, 64, SHA256)

internal fun JsonValue.line() = text(500, 0, LINE)

internal fun JsonValue.byteCount() = long(0..MAX_BYTES)

internal fun JsonValue.side() = int(1..MAX_SIDE)

internal fun JsonValue.coefficient() = number(-1e6, 1e6)

internal fun JsonValue.finite() = number(-3.4e38, 3.4e38)

internal fun JsonValue.shape(): List<Int> {
    val sides = list(0..8) { it.side() }
    val count = sides.fold(1.0) { product, side -> product * side }
    if (count > MAX_ELEMENTS) fail("shape $sides has more than ${"%,d".format(java.util.Locale.ROOT, MAX_ELEMENTS)} elements")
    return sides
}
