"""How fast, and how near the machine's limit: `python -m benchmarks` measures, prints and writes one table."""
