package io.microforge.runtime

import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.FileEntry
import io.microforge.runtime.bundle.MANIFEST
import io.microforge.runtime.bundle.MAX_MANIFEST_BYTES
import io.microforge.runtime.bundle.MAX_SIGNATURE_BYTES
import io.microforge.runtime.bundle.SIGNATURE
import io.microforge.runtime.bundle.checkSignature
import io.microforge.runtime.bundle.loadBundle
import io.microforge.runtime.bundle.parseManifest
import io.microforge.runtime.bundle.sha256File
import java.net.URI
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.StandardCopyOption
import java.security.PublicKey

/** Bytes that are here so far, of the bytes of the whole bundle. */
public data class FetchProgress(public val done: Long, public val total: Long)

/**
 * Download the bundle at [url] to the folder [out], or bring the one that is there up to date.
 *
 * Finished files are kept by their hash in a folder beside the result, files with a known hash are taken from the version that is
 * there already, and the new bundle takes its place only when every file is verified. A download that broke off is continued by the
 * same call. It blocks: call it off the main thread; throwing in [callback] stops it.
 *
 * @param url of the bundle's folder; its manifest is at `url/manifest.json`.
 * @param key public key that must have signed the bundle.
 * @param force whether an existing bundle at [out] is updated.
 * @throws DownloadError when something does not arrive, or is not what the manifest says.
 * @throws BundleError when the manifest is damaged or of another version.
 * @throws SignatureError when [key] is given and did not sign the manifest.
 * @throws OutputExistsError when [out] exists and [force] is off.
 * @throws OutputError when the disk is full or refuses.
 */
public fun fetch(
    url: String,
    out: Path,
    key: PublicKey? = null,
    force: Boolean = false,
    attempts: Attempts = Attempts(),
    callback: ((FetchProgress) -> Unit)? = null,
): Bundle {
    val address = checkUrl(url).trimEnd('/')
    val target = out.toAbsolutePath()
    if (Files.exists(target)) {
        if (!force) throw OutputExistsError("$out exists already; delete it, or ask for an update")
        if (!Files.isRegularFile(target.resolve(MANIFEST))) throw OutputError("$out is no bundle; it is not replaced")
    }
    val manifest = downloadBytes("$address/$MANIFEST", MAX_MANIFEST_BYTES, attempts)
    val signature = key?.let {
        downloadBytes("$address/$SIGNATURE", MAX_SIGNATURE_BYTES, attempts).also { data -> checkSignature(manifest, data, key, address) }
    }
    val entries = parseManifest(manifest, "$address/$MANIFEST").files()
    val parts = target.resolveSibling(".${target.fileName}.parts")
    writing(parts) { Files.createDirectories(parts) }
    val count = counter(entries, callback)
    val present = filesByHash(target)
    for (entry in entries.distinctBy { it.sha256 }) collect(address, entry, parts, present, count, attempts)
    assemble(entries, parts, target, manifest, signature)
    parts.toFile().deleteRecursively()
    return loadBundle(out)
}

/** Bring a verified file named by its hash into [parts]; an unfinished one ends in `.partial`. */
private fun collect(
    url: String,
    entry: FileEntry,
    parts: Path,
    present: Map<String, Path>,
    arrived: (Long) -> Unit,
    attempts: Attempts,
) {
    val complete = parts.resolve(entry.sha256)
    val partial = parts.resolve("${entry.sha256}.partial")
    if (Files.exists(complete) && sha256File(complete) == entry.sha256) return arrived(entry.bytes)
    val old = present[entry.sha256]
    writing(parts) {
        Files.deleteIfExists(complete)
        if (old != null) Files.copy(old, partial, StandardCopyOption.REPLACE_EXISTING)
    }
    if (old != null && sha256File(partial) == entry.sha256) {
        arrived(entry.bytes)
    } else {
        if (Files.exists(partial)) arrived(minOf(Files.size(partial), entry.bytes))
        val path = URI(null, null, "/${entry.path}", null).rawPath
        downloadFile("$url$path", partial, entry.bytes, entry.sha256, attempts, arrived)
    }
    writing(parts) { Files.move(partial, complete, StandardCopyOption.REPLACE_EXISTING) }
}

/** Put the bundle together beside [target], then in its place. */
private fun assemble(entries: List<FileEntry>, parts: Path, target: Path, manifest: ByteArray, signature: ByteArray?) = writing(target) {
    val folder = target.resolveSibling(".${target.fileName}.new")
    val old = target.resolveSibling(".${target.fileName}.old")
    folder.toFile().deleteRecursively()
    old.toFile().deleteRecursively()
    for (entry in entries) {
        val file = folder.resolve(entry.path)
        Files.createDirectories(file.parent)
        Files.copy(parts.resolve(entry.sha256), file)
    }
    if (signature != null) Files.write(folder.resolve(SIGNATURE), signature)
    Files.write(folder.resolve(MANIFEST), manifest)
    if (Files.exists(target)) Files.move(target, old)
    Files.move(folder, target)
    old.toFile().deleteRecursively()
}

/** Where the files of an existing bundle lie, by the hash that its manifest says; nothing when there is none. */
private fun filesByHash(out: Path): Map<String, Path> = try {
    loadBundle(out).manifest.files().associate { it.sha256 to out.resolve(it.path) }.filterValues { Files.isRegularFile(it) }
} catch (_: BundleError) {
    emptyMap()
}

private fun counter(entries: List<FileEntry>, callback: ((FetchProgress) -> Unit)?): (Long) -> Unit {
    val total = entries.distinctBy { it.sha256 }.sumOf { it.bytes }
    var done = 0L
    return { count ->
        done = minOf(done + count, total) // a file that had to start again is counted twice
        callback?.invoke(FetchProgress(done, total))
    }
}
