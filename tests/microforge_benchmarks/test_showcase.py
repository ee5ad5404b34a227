from pathlib import Path

from PIL import Image

from microforge.cli import exit_code
from microforge_benchmarks.showcase import PROMPTS, app


def test_showcase_draws_every_prompt_with_its_words(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples.png"
    assert exit_code(app, [str(bundle), "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.width > 6 * 96 and sheet.height > 2 * 64
        colors = sheet.convert("L").getcolors(1 << 24)
    assert colors is not None and len(colors) > len(PROMPTS), "images and words, not an empty page"
