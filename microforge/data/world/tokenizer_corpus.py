"""Training text of the tokenizer, and the training itself; nothing is downloaded.

Captions and edit instructions come from the grammar, so that each of its words becomes one token. Ordinary English
comes from the documentation in Python's standard library, and words of image prompts come from a list. The result
depends on the Python version through that documentation. Shipped checkpoints use the file in ``microforge/pretrained``.
"""

from __future__ import annotations

import ast
import pydoc_data.topics
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from microforge.data.world.captions import caption
from microforge.data.world.edits import sample_edit
from microforge.data.world.scenes import sample_scene
from microforge.streams import FixedSeed
from microforge.tokenizer import PromptTokenizer, train_tokenizer

#: Common words of image prompts; each becomes one token.
PROMPT_WORDS = """
man woman child boy girl baby person people face portrait hand hair eye eyes smile crowd family friend king queen
cat dog puppy kitten horse cow sheep pig goat bird owl eagle duck chicken parrot penguin fish shark whale dolphin
lion tiger bear wolf fox rabbit mouse elephant giraffe zebra monkey panda koala deer frog snake turtle lizard dragon
unicorn dinosaur butterfly bee ant spider insect flower rose tulip daisy sunflower tree oak pine palm leaf leaves
grass bush garden forest jungle desert mountain hill valley river lake ocean sea beach wave island waterfall cave
sky cloud clouds sun moon stars planet earth galaxy space rain snow storm lightning fog mist rainbow fire smoke ice
water stone rock sand gold silver bronze metal glass wood wooden plastic paper leather fabric marble crystal diamond
house home castle tower bridge church temple palace cabin barn city street road town village park building skyscraper
window door wall roof floor stairs room kitchen bedroom bathroom table chair sofa bed desk lamp clock mirror shelf
car truck bus train bicycle bike motorcycle boat ship airplane plane helicopter rocket spaceship robot machine engine
apple banana orange lemon cherry strawberry grape pear peach tomato potato carrot bread cheese cake pizza sandwich
coffee tea cup mug bottle bowl plate fork knife spoon basket box bag backpack umbrella hat cap shoe shoes shirt dress
coat jacket glasses crown ring necklace book pen pencil phone laptop computer keyboard camera television guitar piano
violin drum ball kite balloon toy doll teddy lego sword shield armor knight wizard witch ghost zombie pirate ninja
astronaut cowboy soldier doctor chef painter dancer warrior princess monster alien angel fairy mermaid samurai
photo photograph picture image painting drawing sketch illustration cartoon anime comic poster logo icon render
watercolor oil acrylic pastel charcoal ink pixel art style vector digital concept realistic photorealistic surreal
abstract minimalist vintage retro modern futuristic cyberpunk steampunk fantasy gothic baroque impressionist cubist
detailed intricate sharp blurry soft bright dark dramatic cinematic moody colorful vibrant pale neon glowing shiny
matte smooth rough beautiful cute funny scary happy sad angry calm peaceful majestic elegant ancient old young new
tiny small little medium large big huge giant tall short long wide narrow round square flat thick thin heavy empty
red orange yellow green cyan blue purple pink brown black gray grey white violet turquoise magenta teal navy maroon
beige cream ivory olive lime indigo crimson scarlet golden silvery light lighting sunset sunrise dawn dusk night day
morning evening summer winter spring autumn studio outdoor indoor foreground background backdrop center middle left
right top bottom front behind beside between above below under over near far inside outside around through across
circle square triangle rectangle star heart cross hexagon pentagon oval sphere cube cone cylinder pyramid pattern
stripes dots lines curve spiral shape shadow reflection texture close up view angle wide macro aerial portrait
standing sitting lying walking running jumping flying swimming sleeping eating drinking holding wearing riding reading
playing looking smiling dancing singing fighting cooking add remove delete erase replace change make turn move put
paint color recolor bigger smaller brighter darker blur sharpen crop restore enhance upscale fill without with and
"""


def tokenizer_texts() -> Iterator[str]:
    """Training texts in a fixed order."""
    rng = np.random.default_rng(FixedSeed.TOKENIZER_CORPUS)
    for _ in range(12_000):
        yield caption(sample_scene(rng), rng)
    for _ in range(6_000):
        yield sample_edit(rng).instruction
    # Repeated, so that these words are merged completely before rarer words of the library.
    words = " ".join(PROMPT_WORDS.split())
    for _ in range(40):
        yield words
    yield from documentation_texts()


def documentation_texts() -> Iterator[str]:
    """Ordinary English: the documentation inside Python's standard library."""
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        yield from _prose(topic)
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for docstring in _docstrings(path.read_text(encoding="utf-8")):
            yield from _prose(docstring)


def _docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


def _prose(text: str) -> Iterator[str]:
    """Words of a documentation page, except indented code blocks and words that contain code signs."""
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.startswith("    "):
            words = re.findall(r"(?<![\w.`*\"'])[A-Za-z]+(?:'[a-z]+)?[,.;:?!]?(?=\s|$)", paragraph)
            yield " ".join(words)


def build_tokenizer() -> PromptTokenizer:
    """Train the tokenizer of the shipped checkpoints from scratch, in a few seconds."""
    return PromptTokenizer(train_tokenizer(tokenizer_texts()))
