package io.microforge.runtime.engines

import ai.onnxruntime.NodeInfo
import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import ai.onnxruntime.platform.Fp16Conversions
import io.microforge.runtime.BundleError
import io.microforge.runtime.Floats
import io.microforge.runtime.Integers
import io.microforge.runtime.Tensor
import io.microforge.runtime.bundle.Component
import io.microforge.runtime.bundle.DType
import io.microforge.runtime.bundle.TensorSpec
import io.microforge.runtime.bundle.oneLine
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer
import java.nio.file.Path

/** One ONNX graph with static shapes on ONNX Runtime's CPU execution provider. */
public class OnnxSession(path: Path, private val component: Component, threads: Int? = null) : Session {
    private val environment = OrtEnvironment.getEnvironment()
    private var session: OrtSession? = load(path, threads)

    init {
        val loaded = session
        val difference = loaded?.let {
            differentTensor(component.inputs, tensors(it.inputInfo)) ?: differentTensor(component.outputs, tensors(it.outputInfo))
        }
        if (difference != null) {
            close()
            throw BundleError("$path: $difference; build the bundle again")
        }
    }

    private fun load(path: Path, threads: Int?): OrtSession = OrtSession.SessionOptions().use { options ->
        options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
        // Every session has a pool of its own; one whose turn is over must not keep spinning on the next one's cores.
        options.addConfigEntry("session.force_spinning_stop", "1")
        if (threads != null) options.setIntraOpNumThreads(threads)
        try {
            environment.createSession(path.toString(), options)
        } catch (error: OrtException) {
            throw BundleError("$path: ONNX Runtime cannot load it: ${oneLine(error.message.orEmpty()).take(300)}", error)
        }
    }

    override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        val loaded = checkNotNull(session) { "this ${component.role} session is closed" }
        checkInputs(component, inputs)
        val tensors = mutableMapOf<String, OnnxTensor>()
        try {
            for (spec in component.inputs) tensors[spec.name] = toEngine(inputs.getValue(spec.name), spec)
            loaded.run(tensors).use { results ->
                return component.outputs.associate { spec -> spec.name to fromEngine(results.get(spec.name).get() as OnnxTensor, spec) }
            }
        } finally {
            tensors.values.forEach(OnnxTensor::close)
        }
    }

    override fun close() {
        session?.close()
        session = null
    }

    private fun toEngine(value: Tensor, spec: TensorSpec): OnnxTensor {
        val shape = LongArray(spec.shape.size) { spec.shape[it].toLong() }
        return when (value) {
            is Integers -> if (spec.dtype == DType.INT64) {
                OnnxTensor.createTensor(environment, LongBuffer.wrap(value.data), shape)
            } else {
                OnnxTensor.createTensor(environment, IntBuffer.wrap(IntArray(value.data.size) { value.data[it].toInt() }), shape)
            }
            is Floats -> if (spec.dtype == DType.FLOAT32) {
                OnnxTensor.createTensor(environment, FloatBuffer.wrap(value.data), shape)
            } else {
                val halves = ByteBuffer.allocateDirect(2 * value.data.size).order(ByteOrder.nativeOrder())
                for (number in value.data) halves.putShort(Fp16Conversions.floatToFp16(number))
                halves.rewind()
                OnnxTensor.createTensor(environment, halves, shape, OnnxJavaType.FLOAT16)
            }
        }
    }

    private fun fromEngine(tensor: OnnxTensor, spec: TensorSpec): Tensor = when (spec.dtype) {
        DType.FLOAT32, DType.FLOAT16 -> {
            val buffer = tensor.floatBuffer
            Floats(spec.shape, FloatArray(buffer.remaining()).also(buffer::get))
        }
        DType.INT64 -> {
            val buffer = tensor.longBuffer
            Integers(spec.shape, LongArray(buffer.remaining()).also(buffer::get))
        }
        DType.INT32 -> {
            val buffer = tensor.intBuffer
            Integers(spec.shape, LongArray(buffer.remaining()) { buffer.get(it).toLong() })
        }
    }

    private fun tensors(nodes: Map<String, NodeInfo>): Map<String, Pair<List<Long>, String>> = nodes.mapValues { (_, node) ->
        val info = node.info as? TensorInfo
        if (info == null) emptyList<Long>() to "no tensor" else info.shape.toList() to typeName(info.type)
    }

    private fun typeName(type: OnnxJavaType): String = when (type) {
        OnnxJavaType.FLOAT -> "float32"
        else -> type.name.lowercase()
    }
}
