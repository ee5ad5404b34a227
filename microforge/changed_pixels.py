"""Constants of the rule that decides which pixels an edit has changed. No torch.

Evaluation (``microforge.evaluation.edit_judge``, torch) and the runtimes (``microforge_runtimes.images.canvas``, numpy)
apply the same rule: a pixel has changed where all pixels around it differ from the source image as well.
"""

from __future__ import annotations

#: A pixel differs when a channel, averaged over 3 x 3 pixels, differs by more than this; images are in [0, 1].
DIFFERENCE_THRESHOLD = 0.10
#: Minimum radius of a changed region, as a share of the shorter side; thinner ones are re-rendered edges.
MIN_RADIUS = 0.012
#: Margin that is added around a changed region, as a share of the shorter side.
MARGIN = 0.03
