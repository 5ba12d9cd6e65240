"""What sounds in a recording, and when: any length, rate and number of channels, one file or thousands.

`tagger` is what users hold; `recording` gathers windows, `result` is the answer, `events` finds onsets and offsets in
it. `batch` and `job` do many files, `sources` says which, `output` writes it down.
Training is elsewhere, and so is the way through a model (`psla.model.inference`).
"""
