"""What Avro's resolution cannot do for a box that was moved."""

from tests.trunkline.schemas import BoxMovedV1, BoxMovedV2


def v1_to_v2(old: BoxMovedV1) -> BoxMovedV2:
    """Say the weight in words; one without a unit never was a weight."""
    amount, unit = old["weight"].split(" ")
    return {"box": old["box"], "number": old["number"], "text": f"weighs {amount} {unit}"}
