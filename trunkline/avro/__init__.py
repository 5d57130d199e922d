"""Avro: schema files are the truth; types are generated from them; values travel in Confluent wire format."""
