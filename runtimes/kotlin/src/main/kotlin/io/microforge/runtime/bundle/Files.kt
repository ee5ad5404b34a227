package io.microforge.runtime.bundle

import io.microforge.runtime.BundleError
import io.microforge.runtime.SignatureError
import java.io.IOException
import java.nio.file.Files
import java.nio.file.InvalidPathException
import java.nio.file.Path
import java.security.MessageDigest
import java.security.PublicKey
import java.util.concurrent.ConcurrentHashMap

private const val BLOCK = 1 shl 20

/** An opened bundle: its folder, its manifest, and its id (12 hex digits of the manifest's SHA-256). */
public class Bundle internal constructor(public val path: Path, public val manifest: Manifest, public val id: String) {
    private val checked = ConcurrentHashMap<String, Pair<Long, Long>>()

    /**
     * The files and measurements of one engine.
     *
     * @throws BundleError when the bundle was not built for it.
     */
    public fun target(name: String): Target = manifest.targets[name]
        ?: throw BundleError("$path has no target ${quoted(name)}; it has: ${listed(manifest.targets.keys)}")

    /**
     * The entry of [size], or of the only size when [size] is null.
     *
     * @throws BundleError for a size that the bundle lacks, or null when it has several.
     */
    public fun size(size: Size?): SizeEntry {
        val allowed = manifest.sizes.joinToString { "${it.size}" }
        if (size == null) {
            return manifest.sizes.singleOrNull() ?: throw BundleError("$path has several sizes; choose one: $allowed")
        }
        return manifest.sizes.firstOrNull { it.size == size } ?: throw BundleError("$path has no size $size; it has: $allowed")
    }

    /**
     * Key of the component with this role at [size], or of the one that serves every size.
     *
     * @throws BundleError when the bundle has none.
     */
    public fun componentKey(role: String, size: Size?): String = manifest.find(role, size) ?: throw BundleError(
        "$path has no $role${if (size == null) "" else " for size $size"}; it has: " +
            listed(manifest.components.values.map { it.role }.distinct().sorted()),
    )

    /**
     * Checked path of component [key] for [target]; its parts and the target's shared files are checked too.
     *
     * @throws BundleError for a target or file that is missing, outside the bundle, or not what its hash says.
     */
    public fun file(target: String, key: String): Path {
        val entry = target(target)
        val file = entry.files[key] ?: throw BundleError("$path: target $target has no file for component ${quoted(key)}")
        for (other in entry.sharedFiles + entry.parts[key].orEmpty()) checked(other)
        return checked(file)
    }

    /**
     * Path of [entry] after its place, size and hash were checked; an unchanged file is hashed once.
     *
     * @throws BundleError when it is missing, reached through a linked folder, or its size or hash differs.
     */
    public fun checked(entry: FileEntry): Path {
        val file = inside(path, entry.path)
        if (!Files.isRegularFile(file)) throw BundleError("$path lacks its file ${entry.path}; copy or build the bundle again")
        val status = reading(file) { Files.size(file) to Files.getLastModifiedTime(file).toMillis() }
        if (checked[entry.path] == status) return file
        if (status.first != entry.bytes) {
            throw BundleError("$file has ${status.first} bytes, the manifest says ${entry.bytes}; copy or build the bundle again")
        }
        val digest = sha256File(file)
        if (digest != entry.sha256) {
            throw BundleError(
                "$file has SHA-256 ${digest.take(12)}..., the manifest says ${entry.sha256.take(12)}...; copy or build the bundle again",
            )
        }
        checked[entry.path] = status
        return file
    }
}

/**
 * Open the bundle in the folder [path]: read and check its manifest, not yet its files.
 *
 * @param key of whom is trusted; the bundle must be signed by it. Null opens unsigned bundles too.
 * @throws BundleError when it is no bundle, or its manifest is damaged, of another version or not allowed.
 * @throws SignatureError when [key] is given and the bundle is not signed by it.
 */
public fun loadBundle(path: Path, key: PublicKey? = null): Bundle {
    val kinds = "a bundle is a folder with a $MANIFEST, made by mf-export"
    if (!Files.isDirectory(path)) {
        throw BundleError("$path ${if (Files.exists(path)) "is no folder" else "does not exist"}; $kinds")
    }
    val file = inside(path, MANIFEST)
    if (!Files.isRegularFile(file)) throw BundleError("$path has no $MANIFEST; $kinds")
    val data = readAtMost(file, MAX_MANIFEST_BYTES)
    if (key != null) {
        val signature = inside(path, SIGNATURE)
        if (!Files.isRegularFile(signature)) {
            throw SignatureError("$path is not signed: it has no $SIGNATURE; sign it with mf-export sign, or open it without a key")
        }
        checkSignature(data, readAtMost(signature, MAX_SIGNATURE_BYTES), key, "$path")
    }
    return Bundle(path, parseManifest(data, "$file"), manifestId(data))
}

/** The id of a bundle: the first 12 hex digits of its manifest's SHA-256. */
public fun manifestId(data: ByteArray): String = hex(MessageDigest.getInstance("SHA-256").digest(data)).take(12)

/** SHA-256 of a file, in lower-case hex. */
internal fun sha256File(path: Path): String = reading(path) {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(BLOCK)
    Files.newInputStream(path).use { stream ->
        while (true) {
            val count = stream.read(block)
            if (count < 0) break
            digest.update(block, 0, count)
        }
    }
    hex(digest.digest())
}

/** [folder] / [relative] when no folder on the way is a link, and the file is none or leads to a regular file. */
internal fun inside(folder: Path, relative: String): Path {
    var place = folder
    val parts = relative.split("/")
    for (part in parts.dropLast(1)) {
        place = resolved(place, part)
        if (Files.isSymbolicLink(place)) throw BundleError("$place is a link; folders of a bundle must lie inside it: copy it with cp -rL")
    }
    place = resolved(place, parts.last())
    if (Files.isSymbolicLink(place) && Files.exists(place) && !Files.isRegularFile(place)) {
        throw BundleError("$place is a link to something that is no regular file; copy the bundle with cp -rL")
    }
    return place
}

private fun resolved(folder: Path, name: String): Path = try {
    folder.resolve(name)
} catch (error: InvalidPathException) {
    throw BundleError("$folder cannot hold a file ${quoted(name)}", error)
}

/** At most one byte more than [limit], so that what is longer is seen to be. */
private fun readAtMost(file: Path, limit: Int): ByteArray =
    reading(file) { Files.newInputStream(file).use { it.readNBytesCompat(limit + 1) } }

private fun java.io.InputStream.readNBytesCompat(limit: Int): ByteArray {
    val result = java.io.ByteArrayOutputStream()
    val block = ByteArray(minOf(BLOCK, limit))
    while (result.size() < limit) {
        val count = read(block, 0, minOf(block.size, limit - result.size()))
        if (count < 0) break
        result.write(block, 0, count)
    }
    return result.toByteArray()
}

private inline fun <T> reading(file: Path, action: () -> T): T = try {
    action()
} catch (error: IOException) {
    throw BundleError("$file cannot be read: ${oneLine(error.message.orEmpty())}", error)
}

internal fun hex(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(java.util.Locale.ROOT, it) }

private fun listed(names: Collection<String>) = names.joinToString().ifEmpty { "none" }
