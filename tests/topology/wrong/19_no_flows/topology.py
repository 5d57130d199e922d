from trunkline import Bus

bus = Bus("shop", [])
