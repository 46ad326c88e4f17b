"""The detector: named axes, layers, backbones, heads, and the state dicts that go with them."""
