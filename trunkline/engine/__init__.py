"""What runs: publish, process, deliver, and the worker that holds them. Decisions are in lanes and watermark."""
