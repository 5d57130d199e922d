"""HTTP to targets; knows no business and no Kafka."""
