from helpers import stock

from trunkline import Bus

bus = Bus("shop", [stock()])
