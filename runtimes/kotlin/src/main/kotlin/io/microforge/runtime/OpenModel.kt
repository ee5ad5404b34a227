package io.microforge.runtime

import io.microforge.runtime.images.CanvasInputs
import io.microforge.runtime.images.SourceRequest
import io.microforge.runtime.images.Tile
import io.microforge.runtime.images.assembleEnlargement
import io.microforge.runtime.images.fromCanvas
import io.microforge.runtime.images.split
import io.microforge.runtime.images.toCanvas

/** The sample of a bundle, and the user's image made from it: at the source's own size, with its alpha. */
public class EditedImage internal constructor(public val result: Result, public val image: Pixels)

/**
 * Make the user's image from [source] with [editor]; [request] says everything but task, image and mask. It blocks.
 *
 * An image that is enlarged is made in tiles: tile i from seed + i, and the result is the last one's.
 */
public fun run(editor: Generator, source: SourceRequest, request: Request, callback: ((Step) -> Unit)? = null): EditedImage {
    val size = editor.size.size
    val parts = split(source, size)
    val kept = editor.keepLoaded
    editor.keepLoaded = kept || parts.size > 1 // the stages stay in memory from one tile to the next
    try {
        val made = parts.mapIndexed { index, tile ->
            val inputs = toCanvas(source, size, tile)
            val own = withImage(request, source, inputs).copy(seed = request.seed + index.toULong())
            val result = editor.run(own) { step -> callback?.invoke(counted(step, index, parts.size)) }
            Triple(tile, inputs, result)
        }
        val (_, inputs, last) = made.last()
        val image = if (source.enlarges) {
            assembleEnlargement(source, made.map { (tile, canvas, result) -> Triple<Tile, CanvasInputs, Pixels>(tile, canvas, result.image) })
        } else {
            fromCanvas(source, inputs, last.image)
        }
        return EditedImage(last.withSeed(request.seed), image)
    } finally {
        editor.keepLoaded = kept
        if (!kept) editor.close()
    }
}

/** Everything that can be refused before an engine loads; throws as [Generator.check]. */
public fun check(editor: Generator, source: SourceRequest, request: Request): Checked {
    val size = editor.size.size
    return editor.check(withImage(request, source, toCanvas(source, size, split(source, size).first())))
}

private fun withImage(request: Request, source: SourceRequest, inputs: CanvasInputs) =
    request.copy(task = source.task, image = inputs.source, mask = inputs.mask)

/** [step] counted over all tiles together. */
private fun counted(step: Step, tile: Int, tiles: Int): Step =
    if (tiles == 1) step else step.counted(tile * step.steps + step.index, tiles * step.steps)
