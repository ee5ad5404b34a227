package io.microforge.runtime

import io.microforge.runtime.bundle.oneLine
import io.microforge.runtime.bundle.sha256File
import java.io.ByteArrayOutputStream
import java.io.IOException
import java.io.InputStream
import java.io.RandomAccessFile
import java.net.HttpURLConnection
import java.net.MalformedURLException
import java.net.URL
import java.nio.file.Files
import java.nio.file.Path

/** How patient a download is: tries without any new byte, seconds to wait between them, seconds of silence. */
public data class Attempts(public val count: Int = 5, public val pause: Double = 1.0, public val timeout: Double = 30.0)

private const val BLOCK = 1 shl 18

/** Statuses that stay as they are, however often one asks. */
private val FINAL_STATUSES = setOf(400, 401, 403, 404, 405, 410, 451)
private const val PARTIAL_CONTENT = 206

/**
 * [url] when it can be downloaded from.
 *
 * @throws DownloadError when it is not an http or https address with a host.
 */
internal fun checkUrl(url: String): String {
    val parts = try {
        URL(url)
    } catch (_: MalformedURLException) {
        null
    }
    if (parts == null || parts.protocol !in listOf("http", "https") || parts.host.isNullOrEmpty()) {
        throw DownloadError("cannot download '${oneLine(url).take(200)}': needed is an address such as https://host/NAME.mfb")
    }
    return url
}

/**
 * The resource [url], whole.
 *
 * @throws DownloadError when it is longer than [limit] bytes, or does not arrive.
 */
internal fun downloadBytes(url: String, limit: Int, attempts: Attempts): ByteArray {
    var last = ""
    for (attempt in 0 until attempts.count) {
        pause(attempt, attempts)
        try {
            return connected(url, 0, attempts) { connection ->
                val result = ByteArrayOutputStream()
                connection.inputStream.use { stream -> copy(stream, limit + 1L) { block, count -> result.write(block, 0, count) } }
                if (result.size() > limit) throw DownloadError("$url is longer than $limit bytes")
                val expected = connection.contentLength
                if (expected > result.size()) throw IOException("it broke off after ${result.size()} bytes")
                result.toByteArray()
            }
        } catch (error: IOException) {
            last = reason(error)
        }
    }
    throw DownloadError("$url did not arrive: $last; try again later")
}

/**
 * Complete [path] from [url]: bytes that are there already are not asked for again.
 *
 * @param size bytes that the resource must have, and [sha256] that it must have.
 * @throws DownloadError when it does not arrive, or what arrives is something else, even from a fresh start.
 * @throws OutputError when the disk is full or refuses.
 */
internal fun downloadFile(url: String, path: Path, size: Long, sha256: String, attempts: Attempts, arrived: (Long) -> Unit) {
    for (fresh in listOf(false, true)) { // what lies there may be damaged, so a wrong hash gets one fresh start
        if (fresh) writing(path) { Files.deleteIfExists(path) }
        val resumed = sizeOf(path) > 0
        complete(url, path, size, attempts, arrived)
        if (sha256File(path) == sha256) return
        if (!resumed) break
    }
    writing(path) { Files.deleteIfExists(path) }
    throw DownloadError("$url has another SHA-256 than the manifest says; it is damaged or was replaced")
}

private fun complete(url: String, path: Path, size: Long, attempts: Attempts, arrived: (Long) -> Unit) {
    var failures = 0
    var last = ""
    while (true) {
        if (sizeOf(path) > size) writing(path) { Files.delete(path) }
        val start = sizeOf(path)
        if (start == size && Files.exists(path)) return
        if (failures >= attempts.count) {
            throw DownloadError("$url did not arrive ($start of $size bytes): $last; ask for it again to go on")
        }
        pause(failures, attempts)
        last = try {
            connected(url, start, attempts) { append(it, url, path, start, size, arrived) }
            "the server ended it early"
        } catch (error: IOException) {
            reason(error)
        }
        failures = if (sizeOf(path) > start) 0 else failures + 1
    }
}

/** Write the body behind the first [start] bytes, or from the beginning when the server ignored the range. */
private fun append(connection: HttpURLConnection, url: String, path: Path, start: Long, size: Long, arrived: (Long) -> Unit) {
    val resumes = start > 0 && connection.responseCode == PARTIAL_CONTENT
    if (resumes) {
        val announced = connection.getHeaderField("Content-Range").orEmpty().removePrefix("bytes ").substringBefore("-")
        if (announced != "$start") throw IOException("the server sent range ${announced.ifEmpty { "of nothing" }}, not $start")
    }
    var end = if (resumes) start else 0
    connection.inputStream.use { stream ->
        writing(path) { RandomAccessFile(path.toFile(), "rw") }.use { file ->
            writing(path) {
                file.setLength(end)
                file.seek(end)
            }
            copy(stream, size - end + 1) { block, count ->
                if (end + count > size) {
                    writing(path) { file.setLength(0) }
                    throw DownloadError("$url is longer than the $size bytes that the manifest says")
                }
                writing(path) { file.write(block, 0, count) }
                end += count
                arrived(count.toLong())
            }
            writing(path) { file.fd.sync() }
        }
    }
}

private fun copy(stream: InputStream, most: Long, take: (ByteArray, Int) -> Unit) {
    val block = ByteArray(BLOCK)
    var left = most
    while (left > 0) {
        val count = stream.read(block, 0, minOf(block.size.toLong(), left).toInt())
        if (count < 0) return
        take(block, count)
        left -= count
    }
}

private fun <T> connected(url: String, start: Long, attempts: Attempts, action: (HttpURLConnection) -> T): T {
    val connection = URL(url).openConnection() as HttpURLConnection
    val milliseconds = (attempts.timeout * 1000).toInt()
    connection.connectTimeout = milliseconds
    connection.readTimeout = milliseconds
    connection.setRequestProperty("User-Agent", "microforge")
    connection.setRequestProperty("Accept-Encoding", "identity")
    if (start > 0) connection.setRequestProperty("Range", "bytes=$start-")
    try {
        val status = connection.responseCode
        if (status in FINAL_STATUSES) throw DownloadError("$url: the server answers $status ${oneLine(connection.responseMessage.orEmpty())}")
        if (status !in 200..299) throw IOException("the server answers $status")
        return action(connection)
    } finally {
        connection.disconnect()
    }
}

private fun pause(failures: Int, attempts: Attempts) {
    if (failures > 0) Thread.sleep((attempts.pause * 1000 * (1L shl (failures - 1))).toLong())
}

private fun sizeOf(path: Path): Long = if (Files.exists(path)) Files.size(path) else 0

private fun reason(error: IOException): String = oneLine(error.message ?: error.javaClass.simpleName).take(200)

/** [action] on the disk; an [OutputError] in one line when it refuses. */
internal inline fun <T> writing(path: Path, action: () -> T): T = try {
    action()
} catch (error: IOException) {
    throw OutputError("cannot write $path: ${oneLine(error.message.orEmpty())}")
}
