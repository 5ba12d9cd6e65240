"""The formats of annotations, a file each or for those that are alike; they enter themselves in `FORMATS`.

What an annotation is, and what the formats share: `psla.data.annotations`. Which recording is meant, and what becomes
of it, is elsewhere.
"""
