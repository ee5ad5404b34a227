"""Models in the folder format of the diffusers library: the only package that imports it."""
