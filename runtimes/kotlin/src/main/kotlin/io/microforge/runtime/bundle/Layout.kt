package io.microforge.runtime.bundle

import kotlinx.serialization.json.JsonElement

/** An image size that the bundle can make, and the latent (C, h, w) that belongs to it. */
public data class SizeEntry(public val height: Int, public val width: Int, public val latentShape: List<Int>) {
    /** The size alone. */
    public val size: Size get() = Size(height, width)

    internal companion object {
        fun read(value: JsonValue) = value.entry {
            SizeEntry(get("height").side(), get("width").side(), get("latent_shape").list(3..3) { it.side() })
        }
    }
}

/** An input or output of a component. [default] is what nothing else binds: zeros when it is empty. */
public data class TensorSpec(
    public val name: String,
    public val shape: List<Int>,
    public val dtype: DType,
    public val default: List<Double>?,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            TensorSpec(
                get("name").tensorName(),
                get("shape").shape(),
                DType.valueOf(get("dtype").choice("float32", "float16", "int64", "int32").uppercase()),
                nullable("default")?.default(),
            )
        }

        private fun JsonValue.default(): List<Double> =
            if (element is kotlinx.serialization.json.JsonArray) list(1..4096) { it.finite() } else choice("zeros").let { emptyList() }
    }
}

/** A network of the bundle. [size] is null for one that serves every size. */
public data class Component(
    public val role: String,
    public val size: Size?,
    public val inputs: List<TensorSpec>,
    public val outputs: List<TensorSpec>,
) {
    /** The input called [name], or null when this component does not take it. */
    public fun input(name: String): TensorSpec? = inputs.firstOrNull { it.name == name }

    /** The output called [name], or null when this component does not give it. */
    public fun output(name: String): TensorSpec? = outputs.firstOrNull { it.name == name }

    internal companion object {
        fun read(value: JsonValue) = value.entry {
            val component = Component(
                get("role").name(), required("size")?.let(Size::read),
                get("inputs").list(1..64, TensorSpec::read), get("outputs").list(1..64, TensorSpec::read),
            )
            for (specs in listOf(component.inputs, component.outputs)) {
                if (specs.distinctBy { it.name }.size != specs.size) value.fail("${component.role} names a tensor twice")
            }
            component
        }
    }
}

/** The model for people and apps; [config] is the source library's own. */
public data class ModelEntry(
    public val name: String,
    public val description: String,
    public val licence: String,
    public val languages: List<String>,
    public val config: Map<String, JsonElement>,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            ModelEntry(
                get("name").line(), optional("description")?.line() ?: "", optional("licence")?.line() ?: "",
                optional("languages")?.list(0..200) { it.text(35) } ?: emptyList(),
                optional("config")?.map(Int.MAX_VALUE, keyLength = Int.MAX_VALUE) { it.plain().let { _ -> it.element } } ?: emptyMap(),
            )
        }
    }
}

/** One whole sample for a runtime to replay; docs/bundle.md lists the tensors of [file]. */
public data class Trajectory(
    public val task: String,
    public val size: Size,
    public val prompt: String,
    public val seed: ULong,
    public val strength: Double?,
    public val file: FileEntry,
    public val renamed: Map<String, String>,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Trajectory(
                get("task").name(), Size.read(get("size")), get("prompt").text(10_000), get("seed").unsignedLong(),
                nullable("strength")?.number(Double.MIN_VALUE, 1.0), FileEntry.read(get("file")),
                optional("renamed")?.map(64) { it.tensorName() } ?: emptyMap(),
            )
        }
    }
}

/** Reference inputs and outputs (safetensors): per component key, and whole trajectories. */
public data class Golden(public val components: Map<String, FileEntry>, public val trajectories: List<Trajectory>) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Golden(
                optional("components")?.map(256, key = KEY, read = FileEntry::read) ?: emptyMap(),
                optional("trajectories")?.list(0..256, Trajectory::read) ?: emptyList(),
            )
        }
    }
}

/** Where the bundle comes from. */
public data class Provenance(
    public val checkpointSha256: String,
    public val versions: Map<String, String>,
    public val created: String,
) {
    internal companion object {
        fun read(value: JsonValue) = value.entry {
            Provenance(
                get("checkpoint_sha256").sha256(), get("versions").map(100, keyLength = 100) { it.line() }, get("created").text(64),
            )
        }
    }
}
