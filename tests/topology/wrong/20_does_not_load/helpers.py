def stock():
    return {}["stock"]
