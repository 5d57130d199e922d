from trunkline import Bus

wrong = Bus
