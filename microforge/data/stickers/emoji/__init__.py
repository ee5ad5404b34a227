"""Makes sticker sets from freely licensed emoji: packages, names, rendering."""
