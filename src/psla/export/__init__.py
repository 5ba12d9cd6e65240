"""Models as ONNX files: the graph from waveform to probabilities, its precision, what it differs by, and running it.

Behind the extra `onnx`. Nothing imports this room but the command line; `psla.weights.catalogue` opens its files by the
name of a function. What is exported of a front end, a backbone or a head is said in their own files.
"""
