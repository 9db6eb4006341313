"""Examples: what somebody could build with Swath. They may import anything; nothing imports them.

bluemarble/  the demo: a picture of the world, a small model for it, and the areas of its oceans
"""
