"""Data: samples, their text form, the procedural world, files of samples, streams with a cursor."""
