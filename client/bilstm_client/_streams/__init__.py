"""Streams: many sequences through one call, over lost servers and without end. Both clients drive
the same decisions, one with threads and one with tasks.
"""
