"""The service: what sounds in a recording, told over HTTP and a WebSocket, and a page to look at it.

`app` has the addresses, `service` what is done, `gate` who may come in, `decoding` and `engine` the work, `answers`
what is told, `stream` the WebSocket, `server` the process. `page/` holds plain files, read as they stand.
Needs the extra `serve`. Nothing but the command line imports this room, and no number is computed here: those are the
Tagger's.
"""
