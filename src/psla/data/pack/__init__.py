"""A pack: the clips of a table decoded once, as int16 waveforms that can be read at random.

`format` says what lies in a pack's folder, `reading` reads it, `write` makes it by a `plan`, `verify` compares it with
its checksums. Nothing here knows a model: the sample rate is that which is asked for.
"""
