"""The service: what sounds in a recording, told over HTTP and a WebSocket, and a page to look at it.

`app` has the addresses, `gate` says who may come in, `decoding` and `engine` do the work, `answers` says what was heard,
`stream` is the WebSocket, `server` the process. `page/` holds plain files that a browser reads as they stand. Needs the
extra `serve`; nothing but the command line imports this room, and no number is computed here: those are the Tagger's.
"""
