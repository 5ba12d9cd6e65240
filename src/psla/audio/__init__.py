"""Reading sound at the rate that is asked for.

Here live decoding and resampling (`decode`), what is read at an address in place of a file (`addresses`), decoding in
watched worker processes (`pool`, `worker_handle`, `worker`) and the scan of many files' headers (`probe`). No clips, no
labels and no torch: a worker imports `worker` and what it needs, and no more.
"""
