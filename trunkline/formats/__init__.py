"""What bodies are written in: JSON, XML, forms, multipart. Pure functions that know no HTTP, no sink and no event.

Each module has `dumps`, which raises Permanent and says where what cannot be written is, and, where answers come in
that format, `loads`, which raises ValueError: what strangers wrote is bounded in size, depth and number.
"""
