package io.microforge.runtime

import io.microforge.runtime.bundle.Bundle
import io.microforge.runtime.bundle.Size
import io.microforge.runtime.bundle.loadBundle
import io.microforge.runtime.engines.Opener
import kotlinx.coroutines.flow.Flow
import java.nio.file.Path

/**
 * A [Generator] with a method per task that takes an image.
 *
 * Images are (1, 3, H, W) in [0, 1] at the editor's size; the package `images` brings any picture to it and back. The methods are
 * short forms of [flow] and fail as [check] does.
 */
public class Editor(
    bundle: Bundle,
    target: String = "onnx",
    size: Size? = null,
    threads: Int? = null,
    keepLoaded: Boolean = false,
    opener: Opener? = null,
) : Generator(bundle, target, size, threads, keepLoaded, opener) {
    /** Open the bundle in the folder [path]. */
    public constructor(path: Path, size: Size? = null, threads: Int? = null) : this(loadBundle(path), size = size, threads = threads)

    /** Change [image] as [prompt] says; with a [mask] (1, 1, H, W) only where it is 1. */
    public fun edit(image: Floats, prompt: String?, seed: ULong = 0u, steps: Int? = null, mask: Floats? = null): Flow<Progress> =
        flow(Request(prompt, "edit", image, mask, seed, steps))

    /** Fill [image] where [mask] (1, 1, H, W) is 1; other pixels stay, bit for bit. */
    public fun inpaint(image: Floats, mask: Floats, prompt: String? = null, seed: ULong = 0u, steps: Int? = null): Flow<Progress> =
        flow(Request(prompt, "inpaint", image, mask, seed, steps))

    /** Make [image] (1, 3, H / factor, W / factor) as large as this editor's size. */
    public fun superResolve(image: Floats, prompt: String? = null, seed: ULong = 0u, steps: Int? = null): Flow<Progress> =
        flow(Request(prompt, "super-resolve", image, null, seed, steps))

    /** Make an image that is similar to [image]; a lower [strength] stays nearer to it. */
    public fun vary(
        image: Floats,
        prompt: String? = null,
        strength: Double? = null,
        seed: ULong = 0u,
        steps: Int? = null,
    ): Flow<Progress> = flow(Request(prompt, "vary", image, null, seed, steps, strength))
}
