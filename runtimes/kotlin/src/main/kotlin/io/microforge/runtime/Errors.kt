package io.microforge.runtime

/** Base of all errors that this library raises on purpose; the message is one line for the user of an app. */
public open class MicroForgeError(message: String, cause: Throwable? = null) : RuntimeException(message, cause)

/** A size, a number or an image that is not allowed; the message lists what is. */
public class SpecError(message: String) : MicroForgeError(message)

/** An image or its settings that cannot be used. */
public class DataError(message: String) : MicroForgeError(message)

/** A prompt that is missing or empty. */
public class PromptError(message: String) : MicroForgeError(message)

/** A bundle that is missing, damaged or unsafe, or lacks the task, size or target that was asked for. */
public class BundleError(message: String, cause: Throwable? = null) : MicroForgeError(message, cause)

/** A bundle that is not signed by the trusted key, or a key that cannot be used. */
public class SignatureError(message: String) : MicroForgeError(message)

/** A bundle that does not arrive, or is not what its manifest says when it does. */
public class DownloadError(message: String) : MicroForgeError(message)

/** An output that cannot be written. */
public open class OutputError(message: String) : MicroForgeError(message)

/** The output exists already, and `force` was not given. */
public class OutputExistsError(message: String) : OutputError(message)

/** A network gave NaN or infinity where an image was expected. */
public class GenerationError(message: String) : MicroForgeError(message)
