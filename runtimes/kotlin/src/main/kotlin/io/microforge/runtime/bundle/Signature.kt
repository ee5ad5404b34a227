package io.microforge.runtime.bundle

import io.microforge.runtime.SignatureError
import java.security.GeneralSecurityException
import java.security.KeyFactory
import java.security.PublicKey
import java.security.Signature
import java.security.spec.X509EncodedKeySpec
import java.util.Base64

/** Name of the signature's file beside the manifest. */
public const val SIGNATURE: String = "$MANIFEST.sig"

internal const val MAX_SIGNATURE_BYTES = 256
private const val LENGTH = 64
private val BASE64 = Regex("[A-Za-z0-9+/]+={0,2}")

/**
 * Check that the owner of [key] signed exactly these bytes with Ed25519 (RFC 8032); the manifest vouches for all other files.
 *
 * @param signature bytes of `manifest.json.sig`; [where] names the bundle in messages.
 * @throws SignatureError when the signature is malformed or of another key or manifest.
 */
public fun checkSignature(manifest: ByteArray, signature: ByteArray, key: PublicKey, where: String) {
    val text = String(signature, Charsets.ISO_8859_1).trim()
    val raw = if (signature.size <= MAX_SIGNATURE_BYTES && BASE64.matches(text)) decoded(text) else ByteArray(0)
    if (raw.size != LENGTH) throw SignatureError("$where: $SIGNATURE is not an Ed25519 signature in base64; sign the bundle again")
    val fits = try {
        Signature.getInstance("Ed25519").run {
            initVerify(key)
            update(manifest)
            verify(raw)
        }
    } catch (error: GeneralSecurityException) {
        throw SignatureError("$where: its signature cannot be checked here (${error.message}); needed: a provider of Ed25519")
    }
    if (!fits) {
        throw SignatureError(
            "$where: $SIGNATURE does not fit $MANIFEST and this key; the bundle was changed, or another key signed it",
        )
    }
}

/**
 * The public key in the PEM text [pem], as `openssl pkey -pubout` writes it.
 *
 * @throws SignatureError when it holds no Ed25519 public key.
 */
public fun readPublicKey(pem: String): PublicKey {
    val body = Regex("-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\\s]+)-----END PUBLIC KEY-----").find(pem)
        ?: throw SignatureError("this is no public key in PEM form; needed: Ed25519 (openssl pkey -pubout)")
    try {
        val data = Base64.getMimeDecoder().decode(body.groupValues[1])
        return KeyFactory.getInstance("Ed25519").generatePublic(X509EncodedKeySpec(data))
    } catch (error: GeneralSecurityException) {
        throw SignatureError("this key cannot be used (${error.message}); needed: Ed25519 (openssl pkey -pubout)")
    }
}

private fun decoded(text: String): ByteArray = try {
    Base64.getDecoder().decode(text)
} catch (_: IllegalArgumentException) {
    ByteArray(0)
}
