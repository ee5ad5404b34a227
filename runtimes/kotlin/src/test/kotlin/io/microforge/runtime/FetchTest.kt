package io.microforge.runtime

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.io.TempDir
import java.net.InetSocketAddress
import java.nio.file.Files
import java.nio.file.Path
import java.security.KeyPairGenerator
import java.security.Signature
import java.util.Base64
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

private val QUICK = Attempts(count = 3, pause = 0.01, timeout = 5.0)

class FetchTest {
    @TempDir lateinit var work: Path
    private val requests = mutableListOf<String>()
    private var breakAfter = Int.MAX_VALUE
    private var ignoresRanges = false
    private val server = HttpServer.create(InetSocketAddress("127.0.0.1", 0), 0).apply {
        createContext("/") { serve(it) }
        start()
    }
    private val url = "http://127.0.0.1:${server.address.port}/b.mfb"

    @AfterEach
    fun stop() = server.stop(0)

    private fun serve(exchange: HttpExchange) = exchange.use {
        val path = exchange.requestURI.path.removePrefix("/")
        val file = work.resolve("server").resolve(path)
        val range = exchange.requestHeaders.getFirst("Range")
        requests += path.removePrefix("b.mfb/") + (range?.let { " $it" } ?: "")
        if (!Files.isRegularFile(file)) return@use exchange.sendResponseHeaders(404, -1)
        val start = if (ignoresRanges) 0 else range?.removePrefix("bytes=")?.removeSuffix("-")?.toInt() ?: 0
        val data = Files.readAllBytes(file).drop(start).toByteArray()
        if (start > 0) exchange.responseHeaders.add("Content-Range", "bytes $start-${start + data.size - 1}/${start + data.size}")
        exchange.sendResponseHeaders(if (start > 0) 206 else 200, data.size.toLong())
        exchange.responseBody.write(data, 0, minOf(breakAfter, data.size))
    }

    private fun bundle(salt: String = "") = writeExampleBundle(work.resolve("server/b.mfb"), salt)

    @Test
    fun `a bundle arrives whole and verified, and says how far it is`() {
        val original = bundle()
        val progress = mutableListOf<FetchProgress>()
        val fetched = fetch(url, work.resolve("out.mfb"), attempts = QUICK) { progress += it }
        assertEquals(original.id, fetched.id)
        fetched.manifest.files().forEach { fetched.checked(it) }
        assertEquals(progress.last().total, progress.last().done)
        assertTrue(progress.zipWithNext().all { (first, second) -> first.done <= second.done })
        assertEquals(listOf("out.mfb", "server"), work.toFile().list()?.sorted())
    }

    @Test
    fun `a download that breaks off is continued where it stopped`() {
        bundle()
        breakAfter = 100_000
        val fetched = fetch(url, work.resolve("out.mfb"), attempts = QUICK)
        fetched.manifest.files().forEach { fetched.checked(it) }
        assertContains(requests.joinToString(), "tokenizer.json bytes=100000-")
        ignoresRanges = true
        breakAfter = Int.MAX_VALUE
        fetch(url, work.resolve("again.mfb"), attempts = QUICK)
    }

    @Test
    fun `an update fetches only what changed`() {
        bundle()
        fetch(url, work.resolve("out.mfb"), attempts = QUICK)
        assertFailsWith<OutputExistsError> { fetch(url, work.resolve("out.mfb"), attempts = QUICK) }
        requests.clear()
        val newer = bundle(" of a newer version")
        assertEquals(newer.id, fetch(url, work.resolve("out.mfb"), force = true, attempts = QUICK).id)
        assertFalse(requests.any { it.startsWith("tokenizer.json") })
    }

    @Test
    fun `a file that is not what the manifest says leaves no bundle behind`() {
        bundle()
        Files.writeString(work.resolve("server/b.mfb/onnx/weights.bin"), "others   of onnx/weights.bin")
        val error = assertFailsWith<DownloadError> { fetch(url, work.resolve("out.mfb"), attempts = QUICK) }
        assertContains(error.message.orEmpty(), "weights.bin")
        assertFalse(Files.exists(work.resolve("out.mfb")))
    }

    @Test
    fun `only the trusted key opens a bundle`() {
        val pair = KeyPairGenerator.getInstance("Ed25519").generateKeyPair()
        val other = KeyPairGenerator.getInstance("Ed25519").generateKeyPair()
        bundle()
        val manifest = Files.readAllBytes(work.resolve("server/b.mfb/manifest.json"))
        assertFailsWith<DownloadError> { fetch(url, work.resolve("out.mfb"), key = pair.public, attempts = QUICK) }
        val signature = Signature.getInstance("Ed25519").run {
            initSign(pair.private)
            update(manifest)
            sign()
        }
        Files.writeString(work.resolve("server/b.mfb/manifest.json.sig"), Base64.getEncoder().encodeToString(signature) + "\n")
        assertFailsWith<SignatureError> { fetch(url, work.resolve("out.mfb"), key = other.public, attempts = QUICK) }
        val fetched = fetch(url, work.resolve("out.mfb"), key = pair.public, attempts = QUICK)
        val pem = "-----BEGIN PUBLIC KEY-----\n${Base64.getMimeEncoder().encodeToString(pair.public.encoded)}\n-----END PUBLIC KEY-----\n"
        val key = io.microforge.runtime.bundle.readPublicKey(pem)
        assertEquals(fetched.id, io.microforge.runtime.bundle.loadBundle(work.resolve("out.mfb"), key).id)
        Files.writeString(work.resolve("out.mfb/manifest.json.sig"), "AAAA\n")
        assertFailsWith<SignatureError> { io.microforge.runtime.bundle.loadBundle(work.resolve("out.mfb"), key) }
    }

    @Test
    fun `addresses and servers that give nothing are one line`() {
        for (address in listOf("", "b.mfb", "ftp://host/b.mfb", "file:///etc", "http://")) {
            assertContains(assertFailsWith<DownloadError> { fetch(address, work.resolve("out.mfb")) }.message.orEmpty(), "cannot download")
        }
        assertContains(assertFailsWith<DownloadError> { fetch("$url/none", work.resolve("out.mfb"), attempts = QUICK) }.message.orEmpty(), "404")
    }
}
