"""The built-in world of captioned scenes: sampling, rendering, captions and edits."""
