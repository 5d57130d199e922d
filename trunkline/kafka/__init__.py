"""Everything that speaks to Kafka: librdkafka carries events, kafka-python is the control plane."""
