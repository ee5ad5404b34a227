"""The bundle format: its manifest, files and hashes, devices, and measured rows. No torch."""
