package io.microforge.runtime.marks

/** Terms of IPTC's vocabulary: made by a model alone, or from an image of someone's with a model's help. */
public enum class SourceType(internal val term: String) {
    TRAINED_ALGORITHMIC_MEDIA("trainedAlgorithmicMedia"),
    COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA("compositeWithTrainedAlgorithmicMedia"),
}

/** What an image's XMP packet says; null is what it does not say. [settings] is JSON, [description] the prompt for people. */
public data class Marks(
    public val sourceType: SourceType?,
    public val settings: String? = null,
    public val description: String? = null,
    public val tool: String? = null,
)

private const val VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
private const val MAX_DESCRIPTION = 2000
private val NAMESPACES = listOf(
    "rdf" to "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt" to "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "dc" to "http://purl.org/dc/elements/1.1/",
    "xmp" to "http://ns.adobe.com/xap/1.0/",
    "microforge" to "urn:microforge:settings#",
)

/** The XMP packet (ISO 16684-1) that says [marks]; the same text as the Python runtime's. */
public fun xmpPacket(marks: Marks): String {
    val properties = mutableListOf<String>()
    marks.sourceType?.let { properties += property("Iptc4xmpExt:DigitalSourceType", VOCABULARY + it.term) }
    marks.tool?.let { properties += property("xmp:CreatorTool", escaped(it)) }
    marks.description?.takeIf { it.isNotEmpty() }?.let {
        val text = escaped(firstCharacters(it, MAX_DESCRIPTION))
        properties += property("dc:description", "<rdf:Alt><rdf:li xml:lang=\"x-default\">$text</rdf:li></rdf:Alt>")
    }
    marks.settings?.let { properties += property("microforge:settings", escaped(it)) }
    val declared = NAMESPACES.joinToString(" ") { (prefix, uri) -> "xmlns:$prefix=\"$uri\"" }
    return "<?xpacket begin=\"\uFEFF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n" +
        "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF $declared>\n<rdf:Description rdf:about=\"\">\n" +
        properties.joinToString("\n") +
        "\n</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end=\"r\"?>"
}

private fun firstCharacters(text: String, count: Int): String =
    if (text.codePointCount(0, text.length) <= count) text else text.substring(0, text.offsetByCodePoints(0, count))

private fun property(name: String, content: String) = "<$name>$content</$name>"

/** [value] as XML text; characters that XML cannot hold become replacement characters. */
private fun escaped(value: String): String = buildString {
    var at = 0
    while (at < value.length) {
        val code = value.codePointAt(at)
        at += Character.charCount(code)
        val allowed = code == 9 || code == 10 || code in 0x20..0xD7FF || code in 0xE000..0xFFFD || code > 0xFFFF
        when {
            !allowed -> append('\uFFFD')
            code == '&'.code -> append("&amp;")
            code == '<'.code -> append("&lt;")
            code == '>'.code -> append("&gt;")
            else -> appendCodePoint(code)
        }
    }
}
