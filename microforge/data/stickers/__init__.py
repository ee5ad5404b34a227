"""Stickers: pictures with an alpha channel, names in several languages, and images composed of them."""
