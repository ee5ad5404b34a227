"""Instructions for edits of sticker scenes in six languages, as tables like those of ``grammars``.

``{thing}`` is what is there, ``{new}`` what comes, both without article; English ones get theirs from ``edits``. ``{place}`` is a
phrase ("on the left"), ``{where}`` the bare English word of it.
"""

from __future__ import annotations

import types
from collections.abc import Mapping

Forms = Mapping[str, tuple[str, ...]]

#: Language -> operation -> forms.
INSTRUCTIONS: Mapping[str, Forms] = types.MappingProxyType({
    "en": types.MappingProxyType({
        "recolor": ("make {thing} {color}", "change {thing} to {color}", "paint {thing} {color}", "turn {thing} {color}"),
        "replace": ("replace {thing} with {new}", "turn {thing} into {new}", "change {thing} into {new}"),
        "restyle": ("draw it in {style} style", "change the style to {style}", "make it {style} style"),
        "move": ("move {thing} to the {where}", "put {thing} {place}", "place {thing} {place}"),
        "add": ("add {new} {place}", "put {new} {place}"),
        "remove": ("remove {thing}", "delete {thing}", "erase {thing}", "take away {thing}"),
        "background": ("make the background {color}", "change the background to {color}", "paint the background {color}"),
    }),
    "es": types.MappingProxyType({
        "recolor": ("cambia el color a {color}: {thing}", "{thing}: píntalo de color {color}"),
        "replace": ("cambia {thing} por {new}", "sustituye {thing} por {new}"),
        "restyle": ("dibújalo en estilo {style}", "cambia el estilo a {style}"),
        "move": ("mueve {thing} {place}", "pon {thing} {place}"),
        "add": ("añade {new} {place}", "pon {new} {place}"),
        "remove": ("quita {thing}", "borra {thing}", "elimina {thing}"),
        "background": ("cambia el fondo a {color}", "pon el fondo {color}"),
    }),
    "fr": types.MappingProxyType({
        "recolor": ("change la couleur en {color} : {thing}", "{thing} : couleur {color}"),
        "replace": ("remplace {thing} par {new}",),
        "restyle": ("dessine-le en style {style}", "change le style en {style}"),
        "move": ("déplace {thing} {place}", "mets {thing} {place}"),
        "add": ("ajoute {new} {place}",),
        "remove": ("enlève {thing}", "supprime {thing}", "efface {thing}"),
        "background": ("change le fond en {color}", "mets un fond {color}"),
    }),
    "de": types.MappingProxyType({
        "recolor": ("färbe {thing} in {color}", "ändere die Farbe zu {color}: {thing}"),
        "replace": ("ersetze {thing} durch {new}",),
        "restyle": ("zeichne es im {style} Stil",),
        "move": ("verschiebe {thing}: {place}", "setze {thing} {place}"),
        "add": ("füge {new} hinzu: {place}", "setze {new} {place}"),
        "remove": ("entferne {thing}", "lösche {thing}"),
        "background": ("ändere den Hintergrund zu {color}", "mache den Hintergrund in {color}"),
    }),
    "pt": types.MappingProxyType({
        "recolor": ("mude a cor para {color}: {thing}", "{thing}: pinte de cor {color}"),
        "replace": ("troque {thing} por {new}", "substitua {thing} por {new}"),
        "restyle": ("desenhe em estilo {style}", "mude o estilo para {style}"),
        "move": ("mova {thing} {place}", "coloque {thing} {place}"),
        "add": ("adicione {new} {place}", "coloque {new} {place}"),
        "remove": ("remova {thing}", "apague {thing}", "tire {thing}"),
        "background": ("mude o fundo para {color}", "deixe o fundo {color}"),
    }),
    "zh": types.MappingProxyType({
        "recolor": ("把{thing}变成{color}", "把{thing}改成{color}"),
        "replace": ("把{thing}换成{new}",),
        "restyle": ("改成{style}风格",),
        "move": ("把{thing}放{place}",),
        "add": ("{place}加一个{new}", "{place}添加{new}"),
        "remove": ("去掉{thing}", "删除{thing}", "擦除{thing}"),
        "background": ("把背景变成{color}", "背景改成{color}"),
    }),
})  # fmt: skip
