"""The words of captions in six languages, as tables: a grammar is data, and one set of functions reads all of them.

Sentences are built so that no gender and no case of a noun must be known: a colour is "of the colour red" where an adjective
would have to agree, and things are counted as a number of stickers of them.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass

Words = Mapping[str, str]


@dataclass(frozen=True)
class Grammar:
    """Templates and words of one language; ``{}`` is what each is about.

    ``colors`` fit ``colored``, ``backgrounds`` fit ``background``, as adjectives that agree with them. Empty templates of
    English are filled by functions (articles, plurals).
    """

    language: str
    colors: Words
    backgrounds: Words
    sizes: Words
    relations: Words
    places: Words
    styles: Words
    shapes: Words
    numbers: tuple[str, ...]  # of 2, 3, 4
    colored: str  # {noun}, {color}
    sized: str  # {noun}, {size}
    counted: str  # {number}, {noun}
    joined: str  # {first}, {second}
    related: str  # {first}, {relation}, {second}
    placed: str  # {subject}, {place}
    background: str  # {subject}, {color}
    styled: str  # {subject}, {style}
    leads: tuple[str, ...]  # {}
    separator: str = " "

    def style(self, name: str) -> str:
        """The word for a style; a user's own styles keep their names."""
        return self.styles.get(name, name)


def _words(keys: str, words: str) -> Words:
    """Keys and words in the same order, each list with commas between."""
    pairs = zip(keys.split(","), (word.strip() for word in words.split(",")), strict=True)
    return types.MappingProxyType({key.strip(): word for key, word in pairs})


_COLORS = "red,orange,yellow,green,cyan,blue,purple,pink,brown,black,gray,white"
_SIZES = "small,medium,large"
_RELATIONS = "left of,right of,above,below"
_PLACES = "center,left,right,top,bottom,top left,top right,bottom left,bottom right"
_STYLES = "flat,glossy,soft,simple"
_SHAPES = "circle,square,triangle,star,heart,diamond,cross,ring"

_EN = Grammar(
    "en", _words(_COLORS, _COLORS), _words(_COLORS, _COLORS), _words(_SIZES, _SIZES),
    _words(_RELATIONS, _RELATIONS),
    _words(_PLACES, "in the center,on the left,on the right,at the top,at the bottom,in the top left corner,"
           "in the top right corner,in the bottom left corner,in the bottom right corner"),
    _words(_STYLES, _STYLES), _words(_SHAPES, _SHAPES), ("two", "three", "four"),
    "{color} {noun}", "{size} {noun}", "{number} {noun}", "{first} and {second}", "{first} {relation} {second}",
    "{subject} {place}", "{subject} on a {color} background", "{subject} in {style} style",
    ("a sticker of {}", "an emoji of {}", "a picture of {}", "a photo of {}"),
)  # fmt: skip
_ES = Grammar(
    "es",
    _words(_COLORS, "rojo,naranja,amarillo,verde,cian,azul,morado,rosa,marrón,negro,gris,blanco"),
    _words(_COLORS, "rojo,naranja,amarillo,verde,cian,azul,morado,rosa,marrón,negro,gris,blanco"),
    _words(_SIZES, "pequeño,mediano,grande"),
    _words(_RELATIONS, "a la izquierda de,a la derecha de,encima de,debajo de"),
    _words(_PLACES, "en el centro,a la izquierda,a la derecha,arriba,abajo,arriba a la izquierda,arriba a la derecha,"
           "abajo a la izquierda,abajo a la derecha"),
    _words(_STYLES, "plano,brillante,suave,sencillo"),
    _words(_SHAPES, "círculo,cuadrado,triángulo,estrella,corazón,rombo,cruz,anillo"), ("dos", "tres", "cuatro"),
    "{noun} de color {color}", "{noun} de tamaño {size}", "{number} pegatinas de {noun}", "{first} y {second}",
    "{first} {relation} {second}", "{subject} {place}", "{subject} sobre fondo {color}", "{subject} en estilo {style}",
    ("pegatina de {}", "emoji de {}", "imagen de {}"),
)  # fmt: skip
_FR = Grammar(
    "fr",
    _words(_COLORS, "rouge,orange,jaune,verte,cyan,bleue,violette,rose,marron,noire,grise,blanche"),
    _words(_COLORS, "rouge,orange,jaune,vert,cyan,bleu,violet,rose,marron,noir,gris,blanc"),
    _words(_SIZES, "petite,moyenne,grande"),
    _words(_RELATIONS, "à gauche de,à droite de,au-dessus de,en dessous de"),
    _words(_PLACES, "au centre,à gauche,à droite,en haut,en bas,en haut à gauche,en haut à droite,en bas à gauche,"
           "en bas à droite"),
    _words(_STYLES, "plat,brillant,doux,simple"),
    _words(_SHAPES, "cercle,carré,triangle,étoile,cœur,losange,croix,anneau"), ("deux", "trois", "quatre"),
    "{noun} de couleur {color}", "{noun} de taille {size}", "{number} autocollants de {noun}", "{first} et {second}",
    "{first} {relation} {second}", "{subject} {place}", "{subject} sur fond {color}", "{subject} en style {style}",
    ("autocollant de {}", "emoji de {}", "image de {}"),
)  # fmt: skip
_DE = Grammar(
    "de",
    _words(_COLORS, "Rot,Orange,Gelb,Grün,Türkis,Blau,Lila,Rosa,Braun,Schwarz,Grau,Weiß"),
    _words(_COLORS, "rotem,orangem,gelbem,grünem,türkisem,blauem,lilafarbenem,rosafarbenem,braunem,schwarzem,grauem,weißem"),
    _words(_SIZES, "klein,mittelgroß,groß"),
    _words(_RELATIONS, "links von,rechts von,über,unter"),
    _words(_PLACES, "in der Mitte,links,rechts,oben,unten,oben links,oben rechts,unten links,unten rechts"),
    _words(_STYLES, "flachen,glänzenden,weichen,einfachen"),
    _words(_SHAPES, "Kreis,Quadrat,Dreieck,Stern,Herz,Raute,Kreuz,Ring"), ("zwei", "drei", "vier"),
    "{noun} in {color}", "{noun} in {size}", "{number} Sticker mit {noun}", "{first} und {second}",
    "{first} {relation} {second}", "{subject} {place}", "{subject} auf {color} Hintergrund", "{subject} im {style} Stil",
    ("Sticker mit {}", "Emoji mit {}", "Bild von {}"),
)  # fmt: skip
_PT = Grammar(
    "pt",
    _words(_COLORS, "vermelha,laranja,amarela,verde,ciano,azul,roxa,rosa,marrom,preta,cinza,branca"),
    _words(_COLORS, "vermelho,laranja,amarelo,verde,ciano,azul,roxo,rosa,marrom,preto,cinza,branco"),
    _words(_SIZES, "pequeno,médio,grande"),
    _words(_RELATIONS, "à esquerda de,à direita de,acima de,abaixo de"),
    _words(_PLACES, "no centro,à esquerda,à direita,em cima,embaixo,no canto superior esquerdo,no canto superior direito,"
           "no canto inferior esquerdo,no canto inferior direito"),
    _words(_STYLES, "plano,brilhante,suave,simples"),
    _words(_SHAPES, "círculo,quadrado,triângulo,estrela,coração,losango,cruz,anel"), ("dois", "três", "quatro"),
    "{noun} de cor {color}", "{noun} de tamanho {size}", "{number} adesivos de {noun}", "{first} e {second}",
    "{first} {relation} {second}", "{subject} {place}", "{subject} em fundo {color}", "{subject} em estilo {style}",
    ("figurinha de {}", "emoji de {}", "imagem de {}"),
)  # fmt: skip
_ZH = Grammar(
    "zh",
    _words(_COLORS, "红色,橙色,黄色,绿色,青色,蓝色,紫色,粉色,棕色,黑色,灰色,白色"),
    _words(_COLORS, "红色,橙色,黄色,绿色,青色,蓝色,紫色,粉色,棕色,黑色,灰色,白色"),
    _words(_SIZES, "小,中等大小的,大"),
    _words(_RELATIONS, "左边,右边,上面,下面"),
    _words(_PLACES, "在中间,在左边,在右边,在上面,在下面,在左上角,在右上角,在左下角,在右下角"),
    _words(_STYLES, "扁平,光泽,柔和,简洁"),
    _words(_SHAPES, "圆形,正方形,三角形,星形,心形,菱形,十字,圆环"), ("两个", "三个", "四个"),
    "{color}的{noun}", "{size}{noun}", "{number}{noun}", "{first}和{second}", "{first}在{second}的{relation}",
    "{subject}{place}", "{subject}，{color}背景", "{subject}，{style}风格", ("{}贴纸", "{}表情", "{}的图片"), "",
)  # fmt: skip

#: Grammars by language, in the order of the catalogue's names.
GRAMMARS: Mapping[str, Grammar] = types.MappingProxyType(
    {grammar.language: grammar for grammar in (_EN, _ES, _FR, _DE, _PT, _ZH)}
)
