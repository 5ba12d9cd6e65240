"""Listening: a stream from a live source to whoever wants to know, for hours.

`listen` is the loop, `deliver` the queues with retries and who is told (a command, a webhook), `mqtt` a broker
and Home Assistant, `recorder` the sound of events. Where sound comes from is `psla.audio.live`; what is found in it,
`psla.tagging.stream`.
"""
