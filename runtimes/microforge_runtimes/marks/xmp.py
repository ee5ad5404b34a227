"""The XMP packet of a generated image: the IPTC mark of artificial media, and the settings. No torch.

XMP (ISO 16684-1) is the one metadata block that PNG, JPEG and WebP all have. The mark is the property
``DigitalSourceType`` of IPTC's Photo Metadata Standard with a term of its controlled vocabulary
(https://cv.iptc.org/newscodes/digitalsourcetype/).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image

from microforge.errors import DataError
from microforge.io.file_kind import HEAD_BYTES, file_kind, with_article
from microforge.io.png_chunks import international_texts
from microforge.io.quiet import quiet_pillow

#: Terms of IPTC's vocabulary: made by a model alone, or from an image of someone's with a model's help.
SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
#: Keyword of the PNG chunk that holds an XMP packet.
PNG_KEYWORD = "XML:com.adobe.xmp"
#: A JPEG's packet must fit into one segment.
MAX_JPEG_PACKET = 65_502
#: Larger packets are not parsed, and descriptions are cut.
_MAX_PACKET, _MAX_DESCRIPTION = 16 << 20, 2_000
_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "microforge": "urn:microforge:settings#",
}


@dataclass(frozen=True)
class Marks:
    """What an image's XMP packet says; None is what it does not say.

    ``source_type`` is the term of the vocabulary, ``settings`` JSON (see ``settings``), ``description`` the prompt
    for people, ``tool`` the program.
    """

    source_type: str | None = None
    settings: str | None = None
    description: str | None = None
    tool: str | None = None


def xmp_packet(marks: Marks) -> str:
    """The packet that says ``marks``."""
    properties = []
    if marks.source_type is not None:
        properties.append(_property("Iptc4xmpExt:DigitalSourceType", escape(VOCABULARY + marks.source_type)))
    if marks.tool is not None:
        properties.append(_property("xmp:CreatorTool", _text(marks.tool)))
    if marks.description:
        item = f'<rdf:Alt><rdf:li xml:lang="x-default">{_text(marks.description[:_MAX_DESCRIPTION])}</rdf:li></rdf:Alt>'
        properties.append(_property("dc:description", item))
    if marks.settings is not None:
        properties.append(_property("microforge:settings", _text(marks.settings)))
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in _NAMESPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {declared}>\n<rdf:Description rdf:about="">\n'
        + "\n".join(properties)
        + '\n</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'
    )


def read_marks(data: bytes) -> Marks:
    """The marks of the PNG, JPEG or WebP file ``data``; empty ones without an XMP packet that can be read.

    Raises:
        DataError: when ``data`` is no such file; one line that does not name it.
    """
    packet = _packet(data)
    if packet is None or len(packet) > _MAX_PACKET or b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return Marks()
    try:
        root = ElementTree.fromstring(packet.decode("utf-8", "replace").strip("\ufeff\0 \n\r\t"))
    except (ElementTree.ParseError, ValueError):
        return Marks()
    source_type = _value(root, "Iptc4xmpExt", "DigitalSourceType")
    return Marks(
        None if source_type is None else source_type.removeprefix(VOCABULARY),
        _value(root, "microforge", "settings"),
        _value(root, "dc", "description"),
        _value(root, "xmp", "CreatorTool"),
    )


def _packet(data: bytes) -> bytes | None:
    kind = file_kind(data[:HEAD_BYTES])
    if kind == "PNG image":
        text = international_texts(data).get(PNG_KEYWORD)
        return None if text is None else text.encode("utf-8")
    if kind not in ("JPEG image", "WebP image"):
        raise DataError(f"is no PNG, JPEG or WebP image, which can hold settings: it is {with_article(kind)}")
    try:
        with quiet_pillow(), Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as image:
            packet = image.info.get("xmp")
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        raise DataError(f"is a damaged {kind} ({' '.join(str(error).split())})") from None
    return packet if isinstance(packet, bytes) else None


def _property(name: str, content: str) -> str:
    return f"<{name}>{content}</{name}>"


def _text(value: str) -> str:
    """``value`` as XML text; characters that XML cannot hold become replacement characters."""
    plain = (char if char in "\t\n" or _allowed(ord(char)) else "\ufffd" for char in value)
    return escape("".join(plain))


def _allowed(code: int) -> bool:
    return 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or code > 0xFFFF


def _value(root: ElementTree.Element, prefix: str, name: str) -> str | None:
    """The text of a property, which may be an element, an alternative by language, or an attribute."""
    tag = f"{{{_NAMESPACES[prefix]}}}{name}"
    for description in root.iter(f"{{{_NAMESPACES['rdf']}}}Description"):
        if tag in description.attrib:
            return description.attrib[tag]
        element = description.find(tag)
        if element is not None:
            item = element.find(f".//{{{_NAMESPACES['rdf']}}}li")
            return (element if item is None else item).text
    return None
