"""One agent: a thin loop around one tool, `bash`.

`loop` asks the model and runs what it says, `asking` is patient with the door, `context` keeps the transcript inside the
model's window, `dialects` speak the providers' native protocols, `prompt` writes the instructions from the box.
"""
