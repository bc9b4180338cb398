"""What lets callers in: certificates, tokens, and their files, which are read while it serves.

Knows neither gRPC nor HTTP. Nothing here, and nothing made here, ever shows a token or a key.
"""
