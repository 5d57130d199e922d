from consumers.sinks.warehouse import Warehouse
from schemas import StockMovementV1
from trunkline import ApiKey, Bus, Deliver, Secret, Target, Topic, env

stock = Target("stock", env("STOCK_URL"), auth=ApiKey(Secret("STOCK_KEY")))
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")

bus = Bus("shop", [Deliver(movements, to=Warehouse(stock))])
